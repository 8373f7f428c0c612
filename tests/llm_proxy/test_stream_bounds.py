"""Streams end: whatever headers a backend sends, however long it says nothing, and if the client stops reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from scripted_backend import ScriptedBackend, answer
from shifted_clock import Clock, until
from starlette.responses import JSONResponse, Response, StreamingResponse
from streams import ANSWER, DONE, HEAD, Stream

from agentlightning.llm_proxy import LLMProxy, flush_captures, stream
from agentlightning.llm_proxy.held import KEEPALIVE_SECONDS
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Span

REQUEST: dict[str, Any] = {"model": "policy", "messages": [{"role": "user", "content": "hi"}], "stream": True}
ODD = "häy-☃".encode() + b"-\xff"
COMMENT = b": " + b"x" * 1000 + b"\n\n"


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def endpoint(proxy: LLMProxy, attempted: AttemptedRollout) -> str:
    return proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint


async def span_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> Span:
    await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempted.attempt.attempt_id)
    (span,) = await store.query_spans(attempted.rollout_id)
    return span


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_header_of_any_bytes_reaches_the_agent_as_it_is(
    http: aiohttp.ClientSession,
    endpoint: str,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    streamed: bool,
) -> None:
    def script(payload: dict[str, Any]) -> Response:
        response = Stream([*ANSWER, DONE]).response() if streamed else JSONResponse(answer(payload, 1))
        response.raw_headers.append((b"x-request-id", ODD))
        return response

    backend.script = script
    async with http.post(f"{endpoint}/chat/completions", json=REQUEST | {"stream": streamed}) as reply:
        assert reply.status == 200
        assert await reply.read()
        assert dict(reply.raw_headers)[b"x-request-id"] == ODD
    assert await proxy.drain(60.0)
    assert (await span_of(proxy, store, attempted)).status.status_code == "OK"


async def stalled(endpoint: str, request: dict[str, Any]) -> asyncio.Transport:
    """Send a request, and read nothing of the answer."""
    host, port = endpoint.removeprefix("http://").partition("/")[0].split(":")
    path = "/" + endpoint.split("/", 3)[3] + "/chat/completions"
    body = json.dumps(request).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, int(port))
    transport.pause_reading()
    transport.write(head + body)
    return transport


async def test_a_client_that_stops_reading_is_in_flight_no_longer_than_the_deadline(
    endpoint: str,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    clock: Clock,
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            yield HEAD + b"data: " + b'{"choices": [], "x": "%s"}\n\n' % (b"x" * 100_000)
            sent += 1
            await asyncio.sleep(0)

    backend.script = lambda _: StreamingResponse(endless(), media_type="text/event-stream")
    transport = await stalled(endpoint, REQUEST)
    await backend.asked.wait()
    before = -1
    while before != sent:  # until all buffers are full
        before = sent
        for _ in range(50):
            await asyncio.sleep(0.002)
    assert proxy.in_flight == 1
    await clock.advance_until(lambda: not proxy.in_flight)
    assert "client_left" in ((await span_of(proxy, store, attempted)).status.description or "")
    transport.abort()


async def test_a_held_client_that_stops_reading_is_let_go(
    endpoint: str,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentlightning.llm_proxy.held._KEEPALIVE", b": " + b"x" * (64 << 20) + b"\n\n")
    await proxy.pause("trainer", lease=36_000, deadline=36_000)
    transport = await stalled(endpoint, REQUEST)
    await until(lambda: proxy._running is not None and proxy._running.gate.held)  # pyright: ignore[reportPrivateUsage]
    await clock.advance(2 * KEEPALIVE_SECONDS)
    await clock.advance(700)
    span = await span_of(proxy, store, attempted)
    assert "took nothing" in (span.status.description or "")
    assert not backend.requests
    transport.abort()


async def test_comments_are_passed_on_and_not_kept(
    http: aiohttp.ClientSession,
    endpoint: str,
    proxy: LLMProxy,
    backend: ScriptedBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "_LARGEST", 10_000)
    backend.script = lambda _: Stream([*[COMMENT] * 100, *ANSWER, DONE]).response()
    async with http.post(f"{endpoint}/chat/completions", json=REQUEST) as reply:
        assert await reply.read() == COMMENT * 100 + b"".join([*ANSWER, DONE])


async def test_a_stream_without_end_is_ended(
    http: aiohttp.ClientSession,
    endpoint: str,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "_LARGEST", 10_000)
    backend.script = lambda _: Stream([HEAD] * 1000, before=999).response()
    async with http.post(f"{endpoint}/chat/completions", json=REQUEST) as reply:
        assert b"a stream of more than 10000 bytes" in await reply.read()
    assert "more than 10000" in ((await span_of(proxy, store, attempted)).status.description or "")


async def test_comments_are_no_answer(
    http: aiohttp.ClientSession, endpoint: str, proxy: LLMProxy, backend: ScriptedBackend, clock: Clock
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield COMMENT
            await asyncio.sleep(50)

    backend.script = lambda _: StreamingResponse(endless(), media_type="text/event-stream")
    call = asyncio.create_task(read(http, endpoint))
    await backend.asked.wait()
    await clock.advance_until(call.done)
    assert b"nothing but comments" in call.result()
    assert not proxy.in_flight


async def read(http: aiohttp.ClientSession, endpoint: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=None)
    async with http.post(f"{endpoint}/chat/completions", json=REQUEST, timeout=timeout) as reply:
        return await reply.read()
