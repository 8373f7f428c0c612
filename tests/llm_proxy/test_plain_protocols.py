"""The elder APIs and those that are not recorded, by the real SDK, sync and async."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from protocol_clients import Client, question
from protocol_matrix import PLAIN, PLAIN_CELLS
from scripted_backend import ScriptedBackend
from starlette.responses import JSONResponse
from streams import DONE, Stream, event

from agentlightning.adapter import llm_calls
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Span

Json = dict[str, Any]

ERROR: Json = {"error": {"message": "the line is long", "type": "server_error", "param": None, "code": None}}


class Bench:
    """A client of one API, the backend behind the gateway, and what is recorded of the calls."""

    def __init__(
        self, client: Client, proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout
    ) -> None:
        self.client = client
        self._proxy = proxy
        self._store = store
        self._ids = attempted.rollout_id, attempted.attempt.attempt_id

    async def spans(self) -> list[Span]:
        await flush_captures({"llm": self._proxy.as_resource()}, *self._ids)
        return list(await self._store.query_spans(self._ids[0]))

    async def failed(self) -> Span:
        """The only call, which failed."""
        (span,) = await self.spans()
        assert span.status.status_code == "ERROR"
        assert llm_calls([span]) == []
        return span


@pytest.fixture
async def bench(
    request: pytest.FixtureRequest, proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout
) -> AsyncIterator[Bench]:
    api, mode = request.param
    client = Client(api, mode, proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint)
    yield Bench(client, proxy, store, attempted)
    await client.close()


def cell(feature: str) -> pytest.MarkDecorator:
    """Runs a test for the APIs for which the table promises the feature."""
    promised = [api for api in PLAIN if (feature, api) in PLAIN_CELLS]
    each = list(itertools.product(promised, ("sync", "async")))
    return pytest.mark.parametrize("bench", each, indirect=True, ids=["-".join(pair) for pair in each])


def choice(index: int, text: str, token: int, finish_reason: str | None = "stop") -> Json:
    logprobs = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": None, "text_offset": [0]}
    return {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": logprobs, "token_ids": [token]}


def completion(*choices: Json) -> Json:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "org/net"}
    return head | {"choices": [{**each, "prompt_token_ids": [1, 2]} for each in choices]}


def pieces() -> list[bytes]:
    last = completion(choice(0, "b", 8))
    del last["choices"][0]["prompt_token_ids"]
    return [event(completion(choice(0, "a", 7, None))), event(last), DONE]


@cell("text")
async def test_text(bench: Bench, backend: ScriptedBackend) -> None:
    api = bench.client.api
    embedding = {"object": "embedding", "index": 0, "embedding": [0.5]}
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    embedded = {"object": "list", "model": "m", "data": [embedding], "usage": usage}
    backend.script = lambda _: JSONResponse(completion(choice(0, " a\n", 7)) if api == "Completions" else embedded)
    answer = await bench.client.create(**question(api))
    if api == "Completions":
        assert answer.choices[0].text == " a\n"
        (call,) = llm_calls(await bench.spans())
        assert (call.prompt_token_ids, call.response_token_ids, call.response_logprobs) == ([1, 2], [7], [-0.5])
    else:
        assert answer.data[0].embedding == [0.5]
        await bench.client.models()
        assert await bench.spans() == []


@cell("stream")
async def test_stream(bench: Bench, backend: ScriptedBackend) -> None:
    backend.script = lambda _: Stream(pieces()).response()
    events = await bench.client.events(**question(bench.client.api))
    assert [each.choices[0].text for each in events] == ["a", "b"]
    (call,) = llm_calls(await bench.spans())
    assert (call.prompt_token_ids, call.response_token_ids, call.streamed) == ([1, 2], [7, 8], True)


@cell("n > 1")
async def test_n(bench: Bench, backend: ScriptedBackend) -> None:
    backend.script = lambda _: JSONResponse(completion(choice(0, "a", 7), choice(1, "b", 8)))
    answer = await bench.client.create(**question(bench.client.api, n=2))
    assert [each.text for each in answer.choices] == ["a", "b"]
    assert [call.response_token_ids for call in llm_calls(await bench.spans())] == [[7], [8]]


@cell("error")
async def test_error(bench: Bench, backend: ScriptedBackend) -> None:
    backend.script = lambda _: JSONResponse(ERROR, 400)
    with pytest.raises(openai.BadRequestError, match="the line is long"):
        await bench.client.create(**question(bench.client.api))
    if bench.client.api == "Completions":
        assert "the line is long" in ((await bench.failed()).status.description or "")
    else:
        assert await bench.spans() == []


@cell("disconnect")
async def test_disconnect(bench: Bench, backend: ScriptedBackend) -> None:
    stream = Stream(pieces(), before=1)
    backend.script = lambda _: stream.response()
    await bench.client.leave(**question(bench.client.api))
    async with asyncio.timeout(30):
        await stream.abandoned.wait()
    assert "client_left" in ((await bench.failed()).status.description or "")


@cell("cancel")
async def test_cancel(bench: Bench, backend: ScriptedBackend) -> None:
    backend.gate.clear()
    await bench.client.give_up(backend.asked, **question(bench.client.api))
    async with asyncio.timeout(30):
        await backend.abandoned.wait()
    if bench.client.api == "Completions":
        assert (await bench.failed()).attributes["http.response.status_code"] == 499
    else:
        assert await bench.spans() == []


def test_every_promise_is_checked() -> None:
    checked = {"text": test_text, "stream": test_stream, "n > 1": test_n, "error": test_error}
    checked |= {"disconnect": test_disconnect, "cancel": test_cancel}
    assert {feature for feature, _ in PLAIN_CELLS} == set(checked)
