"""What is no model call: it reaches the backend under its own name of the model, or is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from scripted_backend import ScriptedBackend, answer
from shifted_clock import Clock
from starlette.responses import JSONResponse
from streams import ANSWER, DONE, Stream

from agentlightning.llm_proxy import LLMProxy, bodies, flush_captures
from agentlightning.llm_proxy.endpoints import EMBEDDINGS_PATH
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Span

CHAT: dict[str, Any] = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}
REQUESTS: dict[str, dict[str, Any]] = {
    "chat/completions": CHAT,
    "messages": CHAT | {"max_tokens": 9},
    "responses": {"model": "policy", "input": "hi"},
}


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


async def spans_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[Span]:
    await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempted.attempt.attempt_id)
    return list(await store.query_spans(attempted.rollout_id))


async def test_embeddings_reach_the_backend_under_its_own_name_of_the_model(
    http: aiohttp.ClientSession, endpoint: str, backend: ScriptedBackend
) -> None:
    async with http.post(f"{endpoint}/embeddings", json={"model": "policy", "input": "x"}) as reply:
        assert reply.status == 200
    assert backend.requests == [{"model": "org/net", "input": "x"}]


async def test_models_are_those_that_calls_may_name(
    http: aiohttp.ClientSession, endpoint: str, backend: ScriptedBackend
) -> None:
    async with http.get(f"{endpoint}/models") as reply:
        (model,) = (await reply.json())["data"]
    async with http.get(f"{endpoint}/models/policy") as reply:
        assert await reply.json() == model
    async with http.get(f"{endpoint}/models/org/net") as reply:
        assert reply.status == 404
    assert model["id"] == "policy"
    assert backend.paths == []


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.replace("/", "-"))
@pytest.mark.parametrize("form", ["{}/", "/{}", "{}//"], ids=["behind", "before", "two"])
async def test_a_slash_too_many_makes_no_call_unrecorded(
    http: aiohttp.ClientSession,
    endpoint: str,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    path: str,
    form: str,
) -> None:
    async with http.post(f"{endpoint}/{form.format(path)}", json=REQUESTS[path]) as reply:
        assert reply.status == 200
    assert len(await spans_of(proxy, store, attempted)) == 1


@pytest.mark.parametrize(
    "path", ["messages/batches", "responses/compact", "/messages//batches"], ids=["batches", "compact", "slashes"]
)
async def test_what_would_ask_a_model_unrecorded_is_refused(
    http: aiohttp.ClientSession, endpoint: str, backend: ScriptedBackend, path: str
) -> None:
    async with http.post(f"{endpoint}/{path}", json=CHAT) as reply:
        assert reply.status == 404
        assert "not be recorded" in await reply.text()
    assert backend.paths == []


@pytest.mark.parametrize("path", [*REQUESTS, "messages/count_tokens", "embeddings"], ids=lambda p: p.replace("/", "-"))
async def test_a_request_that_is_too_large_is_refused(
    http: aiohttp.ClientSession, endpoint: str, backend: ScriptedBackend, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_LARGEST", 1000)
    async with http.post(f"{endpoint}/{path}", data=b"{" + b" " * 1000) as reply:
        assert reply.status == 413
    async with http.post(f"{endpoint}/chat/completions", json=CHAT) as reply:
        assert reply.status == 200
    assert len(backend.requests) == 1


async def test_a_request_whose_rest_does_not_come_is_refused(endpoint: str, clock: Clock) -> None:
    host, port = endpoint.removeprefix("http://").partition("/")[0].split(":")
    path = "/" + endpoint.split("/", 3)[3] + "/chat/completions"
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
    answered = asyncio.create_task(reader.read())  # to the end: the connection is closed
    await clock.advance_until(answered.done)
    assert answered.result().startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_an_event_with_half_a_character_is_answered(
    http: aiohttp.ClientSession,
    endpoint: str,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
) -> None:
    root = endpoint.partition("/rollout/")[0]
    url = f"{root}/api/rollouts/{attempted.rollout_id}/attempt/{attempted.attempt.attempt_id}/events"
    async with http.post(url, data=b'{"event_type": "message", "data": {"message": "\\ud83d"}}') as reply:
        assert reply.status == 200
        assert json.loads(await reply.read())["data"] == {"message": "\ud83d"}
    assert len(await spans_of(proxy, store, attempted)) == 1


async def test_what_passes_is_counted(http: aiohttp.ClientSession, endpoint: str) -> None:
    pytest.importorskip("prometheus_client")
    for path in ("embeddings", "messages/count_tokens", "made/up"):
        async with http.post(f"{endpoint}/{path}", json=CHAT | {"max_tokens": 9}) as reply:
            assert reply.status == 200
    async with http.get(f"{endpoint.partition('/rollout/')[0]}/metrics") as reply:
        text = await reply.text()
    for path in (EMBEDDINGS_PATH, "/messages/count_tokens", "other"):
        assert f'agl_gateway_requests_total{{model="policy",path="{path}",status="200"}} 1.0' in text


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.replace("/", "-"))
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_an_answer_in_the_form_that_was_not_asked_for_is_none(
    http: aiohttp.ClientSession,
    endpoint: str,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    path: str,
    streamed: bool,
) -> None:
    backend.script = lambda payload: (
        JSONResponse(answer(payload, 1)) if streamed else Stream([*ANSWER, DONE]).response()
    )
    async with http.post(f"{endpoint}/{path}", json=REQUESTS[path] | {"stream": streamed}) as reply:
        assert reply.status == 502
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"
    assert not proxy.in_flight
