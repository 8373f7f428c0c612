"""A call's span says all that is known of the call, and making it holds nobody up."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import openai
import pytest
from scripted_backend import ScriptedBackend, answer
from starlette.responses import JSONResponse, Response
from streams import HEAD, Stream, token_chunk

from agentlightning.adapter import llm_calls
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.llm_proxy.capture import to_span
from agentlightning.llm_proxy.exchange import Exchange, read_exchanges
from agentlightning.llm_proxy.pace import Pace
from agentlightning.llm_proxy.sse import EventSplitter
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Span

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


async def spans_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[Span]:
    await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempted.attempt.attempt_id)
    return list(await store.query_spans(attempted.rollout_id))


def client_of(proxy: LLMProxy, attempted: AttemptedRollout, **options: Any) -> openai.AsyncOpenAI:
    resource = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id)
    return openai.AsyncOpenAI(base_url=resource.endpoint, api_key="unused", **options)


async def test_a_span_names_backend_and_requests(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, backend: ScriptedBackend
) -> None:
    backend.script = lambda payload: JSONResponse(answer(payload, 1), headers={"X-Request-Id": "theirs"})
    async with client_of(proxy, attempted) as client:
        await client.chat.completions.create(
            model="policy", messages=MESSAGES, extra_headers={"X-Request-ID": "ours", "X-Rollout-Id": "forged"}
        )
    (span,) = await spans_of(proxy, store, attempted)
    assert span.attributes["agentlightning.llm_call.backend"] == f"{backend.server.url}/v1"
    assert span.attributes["agentlightning.llm_call.request_id"] == "ours"
    assert span.attributes["agentlightning.llm_call.backend_request_id"] == "theirs"
    assert "http.request.resend_count" not in span.attributes
    assert "agentlightning.llm_call.supersedes" not in span.attributes


async def test_what_an_sdk_asks_again_supersedes_what_it_gave_up(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, backend: ScriptedBackend
) -> None:
    backend.gate.clear()

    async def open_gate() -> None:
        await backend.abandoned.wait()
        backend.gate.set()

    opening = asyncio.create_task(open_gate())
    async with asyncio.timeout(60), client_of(proxy, attempted, timeout=0.5, max_retries=5) as client:
        await client.chat.completions.create(model="policy", messages=MESSAGES)
        await client.chat.completions.create(model="policy", messages=MESSAGES)  # another sample
        await opening
    spans = await spans_of(proxy, store, attempted)
    *given_up, got, sample = spans
    assert given_up
    superseded = [span.attributes.get("agentlightning.llm_call.supersedes") for span in (*given_up, got)]
    assert superseded == [None, *(span.span_id for span in given_up)]
    assert [call.span_id for call in llm_calls(spans)] == [got.span_id, sample.span_id]


async def test_an_answer_that_got_lost_on_its_way_is_not_trained_on(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout
) -> None:
    async with client_of(proxy, attempted) as client:
        for number in ("0", "1"):
            await client.chat.completions.create(
                model="policy", messages=MESSAGES, extra_headers={"x-stainless-retry-count": number}
            )
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    spans = await spans_of(proxy, store, attempted)
    assert [call.span_id for call in llm_calls(spans)] == [span.span_id for span in spans[1:]]


async def test_a_refused_call_names_its_backend_and_is_superseded(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, backend: ScriptedBackend
) -> None:
    def refuse(_: dict[str, Any]) -> Response:
        backend.script = None
        return JSONResponse({"error": {"message": "no"}}, 422)

    backend.script = refuse
    async with client_of(proxy, attempted, max_retries=0) as client:
        with pytest.raises(openai.UnprocessableEntityError):
            await client.chat.completions.create(model="policy", messages=MESSAGES)
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    refused, answered = await spans_of(proxy, store, attempted)
    assert refused.attributes["agentlightning.llm_call.backend"] == f"{backend.server.url}/v1"
    assert answered.attributes["agentlightning.llm_call.supersedes"] == refused.span_id


async def test_an_event_without_end_ends_the_stream_and_says_why(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentlightning.llm_proxy.stream.EventSplitter", partial(EventSplitter, largest=10_000))
    endless = Stream([HEAD, token_chunk("a", 7, -0.5), b"data: " + b"x" * 20_000, b"x"], before=3)
    backend.script = lambda _: endless.response()
    async with client_of(proxy, attempted, max_retries=0) as client:
        with pytest.raises(openai.APIError, match="more than 10000 bytes"):
            async for _ in await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True):
                pass
    async with asyncio.timeout(30):
        await endless.abandoned.wait()
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"
    assert "more than 10000 bytes" in (span.status.description or "")
    assert "a" in str(span.attributes["agentlightning.llm_call.partial"])


def exchange_of(response: bytes, **fields: Any) -> Exchange:
    return Exchange(
        rollout_id="r",
        attempt_id="a",
        trace_id="0" * 32,
        path="/chat/completions",
        start_ns=1,
        end_ns=2,
        status=200,
        request=b'{"model": "m"}',
        response=response,
        **fields,
    )


async def test_records_of_earlier_versions_are_read() -> None:
    whole = exchange_of(b"{}", backend="b", retries=2, request_id="i", backend_request_id="j", supersedes="s")
    assert list(read_exchanges(whole.to_bytes())) == [whole]
    earlier = (
        b'{"rollout_id": "r", "attempt_id": "a", "trace_id": "' + b"0" * 32 + b'", "path": "/chat/completions",'
        b' "start_ns": 1, "end_ns": 2, "status": 200, "streamed": false, "first_byte_ns": null, "broken": null,'
        b' "sizes": [14, 0, 2]}\n{"model": "m"}{}'
    )
    assert list(read_exchanges(earlier)) == [exchange_of(b"{}")]


async def test_a_long_stream_is_read_in_many_turns_of_the_loop() -> None:
    def chunk(number: int) -> bytes:
        token = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
        choice = {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [token]}, "token_ids": [number]}
        finish = {"finish_reason": "stop" if number == 9_999 else None}
        return b"data: " + json.dumps({"id": "c", "choices": [choice | finish]}).encode() + b"\n\n"

    exchange = exchange_of(b"".join(map(chunk, range(10_000))), streamed=True)
    turns, done = 0, False

    async def others() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    span = await to_span(exchange, Pace())
    done = True
    await task
    assert turns >= 5
    (call,) = llm_calls([span])
    assert call.response_token_ids == list(range(10_000))
    assert call.response_logprobs == [-0.5] * 10_000
    assert call.message["content"] == "x" * 10_000
