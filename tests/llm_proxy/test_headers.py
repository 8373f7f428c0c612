"""Who calls is what the URL says: headers of a client that claim otherwise reach nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from scripted_backend import ScriptedBackend, answer
from starlette.responses import JSONResponse
from yarl import URL

from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

FORGED = {
    "x-rollout-id": "forged",
    "X-Attempt-Id": "forged",
    "x-sequence-id": "forged-7",
    "x-agl-rollout-id": "forged",
    "agl-attempt-id": "forged",
    "x-request-id": "mine",
    "cookie": "forged=1",
    "te": "trailers",
    "proxy-authorization": "forged",
    "forwarded": "for=forged",
    "x-forwarded-for": "forged",
    "connection": "keep-alive, x-hop",
    "x-hop": "forged",
}
BODY = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize(
    "path", ["chat/completions", "messages", "responses", "embeddings"], ids=lambda path: path.replace("/", "-")
)
async def test_what_a_client_claims_in_headers_reaches_neither_backend_nor_record(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
    path: str,
) -> None:
    ids = attempted.rollout_id, attempted.attempt.attempt_id
    endpoint = proxy.as_resource(*ids).endpoint
    body = BODY | {"max_tokens": 9, "input": "hi"}
    if path != "messages":
        del body["max_tokens"]
    if path == "responses":
        del body["messages"]
    async with http.post(f"{endpoint}/{path}", json=body, headers=FORGED) as reply:
        assert reply.status == 200
    await flush_captures({"llm": proxy.as_resource()}, *ids)
    spans = await store.query_spans(attempted.rollout_id)
    assert [(span.rollout_id, span.attempt_id) for span in spans] == [ids] * (path != "embeddings")
    assert "forged" not in str([span.model_dump() for span in spans])
    (received,) = backend.headers
    assert "forged" not in str(received)
    assert received.keys() <= {"host", "accept", "accept-encoding", "content-type", "content-length", "user-agent"}


async def test_headers_of_one_connection_stay_on_it(
    proxy: LLMProxy, attempted: AttemptedRollout, backend: ScriptedBackend, http: aiohttp.ClientSession
) -> None:
    theirs = {
        "proxy-authenticate": "Basic",
        "trailer": "x-checksum",
        "connection": "x-internal",
        "x-internal": "1",
        "retry-after": "3",
        "x-request-id": "theirs",
    }
    backend.script = lambda payload: JSONResponse(answer(payload, 1), headers=theirs)
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    async with http.post(f"{endpoint}/chat/completions", json=BODY) as reply:
        assert reply.status == 200
        received = {key.lower() for key in reply.headers}
    assert received == {"content-type", "content-length", "retry-after", "x-request-id"}


OUTSIDE = {
    "up": "%2e%2e/admin",
    "far up": "x/%2e%2e/%2e%2e/admin",
    "slash": "..%2fadmin",
    "twice": "%252e%252e/admin",
    "three times": "x/%25252e./..%252fadmin",
    "backslash": "..%5cadmin",
    "without end": "%252525252525252e./admin",
}


@pytest.mark.parametrize("path", OUTSIDE.values(), ids=OUTSIDE.keys())
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_path_leads_out_of_the_backends_base_url(
    proxy: LLMProxy,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
    path: str,
    method: str,
) -> None:
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    async with http.request(method, URL(f"{endpoint}/{path}", encoded=True)) as reply:
        assert reply.status == 404
        assert "must not lead out" in await reply.text()  # the backend's own 404 says something else
    assert backend.paths == []


async def test_a_path_reaches_the_backend_as_it_was_written(
    proxy: LLMProxy, attempted: AttemptedRollout, backend: ScriptedBackend, http: aiohttp.ClientSession
) -> None:
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    async with http.get(URL(f"{endpoint}/files/a%2Fb%23c%3Fd%2520..?q=%2Fx%20y", encoded=True)) as reply:
        said = await reply.json()
    assert said == {"path": "/v1/files/a/b%23c%3Fd%20..", "query": "q=%2Fx%20y"}
