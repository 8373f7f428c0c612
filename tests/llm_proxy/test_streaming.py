"""Streams through the gateway: events leave as they come, and each call is recorded as if it had not been streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from scripted_backend import ScriptedBackend
from starlette.responses import JSONResponse, Response
from streams import ANSWER, DONE, HEAD, USAGE, Stream, chunk, event, token_chunk

from agentlightning.adapter import llm_calls
from agentlightning.doctor.scripted_model import ScriptedModel
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.llm_proxy.dialects.chat_stream import says_nothing
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, LLMCall, Span

MESSAGES: list[Any] = [{"role": "user", "content": "häy"}]
REQUEST: dict[str, Any] = {"model": "policy", "messages": MESSAGES, "stream": True}
TOOLS: list[Any] = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in "fg"]


@pytest.fixture
async def client(proxy: LLMProxy, attempted: AttemptedRollout) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=endpoint_of(proxy, attempted), api_key="key", max_retries=0) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def endpoint_of(proxy: LLMProxy, attempted: AttemptedRollout) -> str:
    return proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint


async def spans_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[Span]:
    await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempted.attempt.attempt_id)
    return list(await store.query_spans(attempted.rollout_id))


async def calls_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[LLMCall]:
    return llm_calls(await spans_of(proxy, store, attempted))


def journaled(directory: Path) -> bytes:
    return b"".join(segment.read_bytes() for segment in directory.iterdir())


async def read(http: aiohttp.ClientSession, endpoint: str, **extra: Any) -> bytes:
    async with http.post(f"{endpoint}/chat/completions", json=REQUEST | extra) as reply:
        assert reply.status == 200
        assert reply.content_type == "text/event-stream"
        return await reply.read()


async def test_a_streamed_call_is_recorded_with_its_exact_tokens(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    backend.script = lambda _: Stream([*ANSWER, USAGE, DONE]).response()
    pieces = [
        piece
        async for piece in await client.chat.completions.create(
            model="policy", messages=MESSAGES, temperature=0.5, stream=True
        )
    ]
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "ab"
    (span,) = await spans_of(proxy, store, attempted)
    (call,) = llm_calls([span])
    assert (call.prompt_token_ids, call.response_token_ids, call.response_logprobs) == ([1, 2], [7, 8], [-0.5, -0.25])
    assert (call.finish_reason, call.response_id, call.temperature) == ("stop", "chatcmpl-s", 0.5)
    assert call.message == {"role": "assistant", "content": "ab"}
    assert span.attributes["agentlightning.llm_call.streamed"] is True
    assert span.attributes["agentlightning.llm_call.time_to_first_token"] <= call.end_time - call.start_time
    assert span.attributes["gen_ai.usage.output_tokens"] == 2
    asked = backend.requests[0]
    assert asked["return_token_ids"] is asked["logprobs"] is True
    assert asked["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["text", "tools"])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream_says_the_same_as_an_answer_in_one_piece(
    store: InMemoryLightningStore, tools: list[Any] | None, n: int
) -> None:
    calls: list[list[LLMCall]] = []
    for stream in (False, True):
        attempted = await store.start_rollout(input={})
        async with ScriptedModel() as model:
            proxy = LLMProxy(model_list=model.model_list, store=store)
            await proxy.start()
            extra: dict[str, Any] = {"tools": tools} if tools else {}
            async with openai.AsyncOpenAI(base_url=endpoint_of(proxy, attempted), api_key="key") as client:
                reply = await client.chat.completions.create(
                    model="scripted", messages=MESSAGES, n=n, stream=stream, **extra
                )
                if stream:
                    assert [piece async for piece in reply]
            calls.append(await calls_of(proxy, store, attempted))
            await proxy.stop()
    whole, streamed = calls
    assert len(whole) == len(streamed) == n
    for left, right in zip(whole, streamed, strict=True):
        assert right.response_token_ids
        assert left.prompt_token_ids == right.prompt_token_ids
        assert left.response_token_ids == right.response_token_ids
        assert left.response_logprobs == right.response_logprobs
        assert left.message.get("tool_calls") == right.message.get("tool_calls")
        assert (left.message["content"] or "", left.finish_reason) == (
            right.message["content"] or "",
            right.finish_reason,
        )


@pytest.mark.parametrize("asked", [None, False, True])
async def test_the_bytes_are_the_backends_but_for_the_usage_that_nobody_asked_for(
    proxy: LLMProxy,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
    asked: bool | None,
) -> None:
    sent = [b": warming up\r\n\r\n", b"\n", *ANSWER, b"event: x\nid: 1\r\ndata: {}\n\n"]
    backend.script = lambda _: Stream([*sent, USAGE, DONE]).response()
    options = {} if asked is None else {"stream_options": {"include_usage": asked, "other": 1}}
    received = await read(http, endpoint_of(proxy, attempted), **options)
    assert received == b"".join([*sent, *([USAGE] if asked else []), DONE])
    assert backend.requests[0]["stream_options"] == options.get("stream_options", {}) | {"include_usage": True}


async def test_events_leave_before_the_backend_goes_on(
    proxy: LLMProxy, attempted: AttemptedRollout, backend: ScriptedBackend, http: aiohttp.ClientSession
) -> None:
    stream = Stream([HEAD, ANSWER[1][:20], *ANSWER[1:], DONE], before=2)
    backend.script = lambda _: stream.response()
    async with http.post(f"{endpoint_of(proxy, attempted)}/chat/completions", json=REQUEST) as reply:
        assert await reply.content.readexactly(len(HEAD)) == HEAD
        stream.gate.set()
        assert await reply.read() == b"".join([ANSWER[1][:20], *ANSWER[1:], DONE])


async def test_a_call_is_in_the_journal_before_its_last_event_leaves(
    attempted: AttemptedRollout, backend: ScriptedBackend, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    taking = asyncio.Event()

    class TakesLater(InMemoryLightningStore):
        async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
            await taking.wait()
            return spans

    stream = Stream([*ANSWER, DONE, b": the end\n\n"], before=4)
    backend.script = lambda _: stream.response()
    proxy = LLMProxy(model_list=[backend.model_config], store=TakesLater(), journal_dir=tmp_path)
    await proxy.start()
    async with http.post(f"{endpoint_of(proxy, attempted)}/chat/completions", json=REQUEST) as reply:
        await reply.content.readuntil(DONE)
        assert DONE in journaled(tmp_path)
        stream.gate.set()
        taking.set()
        await reply.read()
    await proxy.stop()


async def test_a_gateway_that_stops_says_so_of_the_calls_it_cuts_off(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
) -> None:
    stream = Stream([*ANSWER, DONE], before=1)
    backend.script = lambda _: stream.response()
    async with http.post(f"{endpoint_of(proxy, attempted)}/chat/completions", json=REQUEST) as reply:
        await reply.content.readexactly(len(HEAD))
        await proxy.stop()
        with pytest.raises(aiohttp.ClientError):
            await reply.read()
    async with asyncio.timeout(10):
        await stream.abandoned.wait()
    (span,) = await store.query_spans(attempted.rollout_id)
    assert "the gateway was stopped" in (span.status.description or "")


async def test_a_client_that_leaves_stops_the_backend_and_leaves_a_partial_call(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    stream = Stream([*ANSWER, DONE], before=2)
    backend.script = lambda _: stream.response()
    async with await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True) as reply:
        seen = [(await anext(reply)).choices[0].delta.content for _ in range(2)]
    async with asyncio.timeout(10):
        await stream.abandoned.wait()
    assert seen == ["", "a"]
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"
    assert "client_left" in (span.status.description or "")
    assert '"content": "a"' in str(span.attributes["agentlightning.llm_call.partial"])
    assert llm_calls([span]) == []


async def test_a_client_that_leaves_behind_the_answer_has_made_a_whole_call(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    stream = Stream([*ANSWER, DONE], before=3)
    backend.script = lambda _: stream.response()
    async with await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True) as reply:
        while (await anext(reply)).choices[0].finish_reason is None:
            pass
    (call,) = await calls_of(proxy, store, attempted)
    assert call.response_token_ids == [7, 8]


async def test_a_flush_waits_for_a_stream_but_not_for_ever(
    proxy: LLMProxy, attempted: AttemptedRollout, backend: ScriptedBackend, http: aiohttp.ClientSession
) -> None:
    stream = Stream([*ANSWER, DONE], before=1)
    backend.script = lambda _: stream.response()
    endpoint = endpoint_of(proxy, attempted)
    flush = endpoint.removesuffix("/v1") + "/flush"
    async with http.post(f"{endpoint}/chat/completions", json=REQUEST) as reply:
        await reply.content.readexactly(len(HEAD))
        async with http.post(flush, params={"deadline": 0.05}) as answer:
            assert answer.status == 504
        stream.gate.set()
        async with http.post(flush) as answer:
            assert answer.status == 200
        await reply.read()


async def test_a_backend_that_dies_in_the_middle_is_named_in_the_stream_and_recorded(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    backend.script = lambda _: Stream([*ANSWER[:2], b'data: {"cho'], error=RuntimeError("out of memory")).response()
    reply = await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="broke off") as caught:
        assert [piece async for piece in reply]
    assert caught.value.code == "backend_unreachable"
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"
    assert "broke off" in (span.status.description or "")
    assert llm_calls([span]) == []


async def test_an_error_in_the_stream_passes_through_and_is_recorded(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    error = event({"error": {"message": "engine failed", "type": "server_error", "code": 500}})
    backend.script = lambda _: Stream([*ANSWER, error, DONE]).response()
    reply = await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="engine failed"):
        assert [piece async for piece in reply]
    (span,) = await spans_of(proxy, store, attempted)
    assert "engine failed" in (span.status.description or "")
    assert llm_calls([span]) == []


async def test_a_backend_that_falls_silent_meets_the_deadline(
    backend: ScriptedBackend,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    http: aiohttp.ClientSession,
) -> None:
    stream = Stream([*ANSWER, DONE], before=2)
    backend.script = lambda _: stream.response()
    proxy = LLMProxy(model_list=[backend.model_config], store=store, timeout=1.5)
    await proxy.start()
    assert b"backend_timeout" in await read(http, endpoint_of(proxy, attempted))
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"
    await proxy.stop()


async def test_a_stream_that_ends_without_an_end_is_no_call(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
) -> None:
    backend.script = lambda _: Stream([*ANSWER[:2], DONE]).response()
    assert await read(http, endpoint_of(proxy, attempted)) == b"".join([*ANSWER[:2], DONE])
    (span,) = await spans_of(proxy, store, attempted)
    assert "finish reason" in (span.status.description or "")
    assert llm_calls([span]) == []


async def test_a_stream_that_leaves_tokens_out_has_none(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend.script = lambda _: Stream([HEAD, ANSWER[2], USAGE, DONE]).response()
    await read(http, endpoint_of(proxy, attempted))
    (call,) = await calls_of(proxy, store, attempted)
    assert call.response_token_ids == []
    assert "1 of its 2 tokens" in caplog.text


async def test_a_backend_that_refuses_a_field_in_streams_is_still_asked_for_the_others(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    def script(payload: dict[str, Any]) -> Response:
        if "stream_options" in payload:
            return JSONResponse({"error": {"message": "unknown field stream_options"}}, 400)
        if payload.get("stream"):
            return Stream([chunk({"content": "x"}, finish_reason="stop"), DONE]).response()
        return JSONResponse({"id": "c", "choices": []})

    backend.script = script
    for _ in range(2):
        reply = await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
        assert [piece.choices[0].delta.content async for piece in reply] == ["x"]
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    asked = [
        (bool(payload.get("stream")), "stream_options" in payload, "return_token_ids" in payload)
        for payload in backend.requests
    ]
    without = (True, False, True)
    assert asked == [(True, True, True), without, (False, False, True), without, (False, False, True)]


async def test_an_error_before_the_stream_is_an_ordinary_answer(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    backend.script = lambda _: JSONResponse({"error": {"message": "slow down"}}, 429)
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
    (span,) = await spans_of(proxy, store, attempted)
    assert "HTTP 429" in (span.status.description or "")


async def test_streamed_completions_are_recorded(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    def piece(text: str, token: int, finish_reason: str | None, **fields: Any) -> bytes:
        logprobs = {"tokens": [text], "token_logprobs": [-token / 8], "top_logprobs": None, "text_offset": [0]}
        choice = {"index": 0, "text": text, "token_ids": [token], "logprobs": logprobs, "finish_reason": finish_reason}
        return event({"id": "cmpl-1", "object": "text_completion", "choices": [choice | fields]})

    pieces = [piece("a", 1, None, prompt_token_ids=[5, 6]), piece("b", 2, "length"), DONE]
    backend.script = lambda _: Stream(pieces).response()
    stream = await client.completions.create(model="policy", prompt="hi", stream=True)
    assert "".join([piece.choices[0].text async for piece in stream]) == "ab"
    (call,) = await calls_of(proxy, store, attempted)
    assert (call.prompt_token_ids, call.response_token_ids, call.finish_reason) == ([5, 6], [1, 2], "length")
    assert call.response_logprobs == [-0.125, -0.25]
    assert call.message["content"] == "ab"


async def test_streams_that_are_not_recorded_pass_as_well(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
) -> None:
    backend.script = lambda _: Stream([*ANSWER, USAGE, DONE]).response()
    assert await read(http, proxy.as_resource().endpoint) == b"".join([*ANSWER, DONE])
    async with http.post(f"{endpoint_of(proxy, attempted)}/other", json=REQUEST) as reply:
        assert await reply.read() == b"".join([*ANSWER, USAGE, DONE])
    assert await spans_of(proxy, store, attempted) == []


async def test_streams_at_once_keep_apart(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    def script(payload: dict[str, Any]) -> Response:
        token = payload["seed"]
        tokens = [token_chunk(str(token), token, -1.0) for _ in range(5)]
        return Stream([HEAD, *tokens, chunk({}, finish_reason="stop"), DONE]).response()

    async def ask(seed: int) -> str:
        stream = await client.chat.completions.create(model="policy", messages=MESSAGES, seed=seed, stream=True)
        return "".join([piece.choices[0].delta.content or "" async for piece in stream])

    backend.script = script
    texts = await asyncio.gather(*(ask(seed) for seed in range(20)))
    calls = await calls_of(proxy, store, attempted)
    assert sorted((call.sampling["seed"], call.message["content"]) for call in calls) == list(enumerate(texts))
    assert all(call.response_token_ids == [call.sampling["seed"]] * 5 for call in calls)


@pytest.mark.parametrize(
    ("delta", "silent"),
    [
        ({"role": "assistant"}, True),
        ({"role": "assistant", "content": ""}, True),
        ({"role": "assistant", "content": None, "tool_calls": []}, True),
        ({"role": "assistant", "content": '"role": "x"'}, False),
        ({"role": "assistant", "content": "", "reasoning_content": "Hm"}, False),
        ({"role": "assistant", "tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}, False),
        ({"content": "a"}, False),
    ],
    ids=["role", "empty", "null", "text", "reasoning", "tool", "without-role"],
)
def test_the_role_alone_is_no_token(delta: dict[str, Any], silent: bool) -> None:
    assert says_nothing(chunk(delta)) is silent


async def test_the_first_token_is_waited_for_behind_the_role(
    http: aiohttp.ClientSession,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    stream = Stream([*ANSWER, DONE], before=1)
    backend.script = lambda _: stream.response()
    async with http.post(f"{endpoint_of(proxy, attempted)}/chat/completions", json=REQUEST) as reply:
        assert await reply.content.readuntil(b"\n\n") == HEAD
        role_came = time.time()
        stream.gate.set()
        await reply.read()
    (span,) = await spans_of(proxy, store, attempted)
    first = span.attributes["agentlightning.llm_call.time_to_first_token"]
    assert isinstance(first, float)
    assert span.start_time is not None
    assert span.start_time + first >= role_came - 1e-6  # what numbers of this size are exact to
