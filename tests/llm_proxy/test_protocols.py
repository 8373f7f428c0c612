"""Three APIs by their real SDKs, sync and async, before a backend that speaks chat completions only."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from protocol_clients import (
    PARAMETERS,
    PIXEL,
    SCHEMA,
    Client,
    Said,
    question,
    said,
    with_image,
    with_schema,
    with_tools,
)
from protocol_matrix import ABSENT, APIS, FEATURES, note
from scripted_backend import ScriptedBackend
from starlette.responses import JSONResponse, Response
from streams import DONE, Stream, chunk, event

from agentlightning.adapter import llm_calls
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, LLMCall, Span

Json = dict[str, Any]

HI = [{"role": "user", "content": "hi"}]
PROMPT = [1, 2]


@dataclass
class Bench:
    """A client, the gateway, the backend behind it, and the attempt that calls."""

    api: str
    client: Client
    backend: ScriptedBackend
    proxy: LLMProxy
    store: InMemoryLightningStore
    attempted: AttemptedRollout

    async def spans(self, number: int) -> list[Span]:
        """The recorded calls, once there are as many."""
        async with asyncio.timeout(10):
            while True:
                spans = await self.store.query_spans(self.attempted.rollout_id)
                if len(spans) >= number:
                    return list(spans)
                await asyncio.sleep(0.02)

    async def check_calls(self, expected: list[int], number: int) -> list[LLMCall]:
        """That each call was recorded as the backend was asked, with the tokens it named."""
        calls = llm_calls(await self.spans(number))
        assert [call.response_token_ids for call in calls] == [expected] * number
        assert [call.prompt_token_ids for call in calls] == [PROMPT] * number
        assert [call.messages for call in calls] == [asked["messages"] for asked in self.backend.requests]
        return calls


@pytest.fixture(params=itertools.product(APIS, ("sync", "async")), ids="-".join)
async def bench(
    request: pytest.FixtureRequest,
    proxy: LLMProxy,
    backend: ScriptedBackend,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
) -> AsyncIterator[Bench]:
    api, mode = request.param
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    client = Client(api, mode, endpoint)
    yield Bench(api, client, backend, proxy, store, attempted)
    await client.close()


def usage(tokens: list[int]) -> Json:
    return {"prompt_tokens": 2, "completion_tokens": len(tokens), "total_tokens": 2 + len(tokens)}


def whole(message: Json, finish_reason: str, tokens: list[int]) -> Json:
    logprobs: Json = {"content": [{"token": "x", "logprob": -0.5, "bytes": None, "top_logprobs": []} for _ in tokens]}
    choice = {"index": 0, "message": {"role": "assistant", "content": None} | message, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-s",
        "object": "chat.completion",
        "created": 1,
        "model": "org/net",
        "prompt_token_ids": PROMPT,
        "choices": [choice | {"token_ids": tokens, "logprobs": logprobs}],
        "usage": usage(tokens),
    }


def pieces(deltas: list[Json], finish_reason: str, tokens: list[int]) -> list[bytes]:
    """Each delta as a chunk with one of the tokens."""
    made = [
        chunk(delta, token_ids=[token], finish_reason=finish_reason if last else None)
        for delta, token, last in zip(deltas, tokens, [False] * (len(deltas) - 1) + [True], strict=True)
    ]
    head = {"id": "chatcmpl-s", "object": "chat.completion.chunk", "created": 1, "model": "org/net"}
    first = head | {"prompt_token_ids": PROMPT, "choices": [{"index": 0, "delta": {"role": "assistant"}}]}
    return [event(first), *made, event(head | {"choices": [], "usage": usage(tokens)}), DONE]


def answering(
    message: Json, deltas: list[Json], finish_reason: str = "stop"
) -> tuple[Callable[[Json], Response], list[int]]:
    """A script that gives the same answer whole and in pieces, and the answer's tokens."""
    tokens = list(range(7, 7 + len(deltas)))

    def script(payload: Json) -> Response:
        if payload.get("stream"):
            return Stream(pieces(deltas, finish_reason, tokens)).response()
        return JSONResponse(whole(message, finish_reason, tokens))

    return script, tokens


async def both_ways(bench: Bench, request: Json, message: Json, deltas: list[Json], expected: Said) -> list[LLMCall]:
    """That an answer says the same whole and as a stream, and is recorded both times."""
    bench.backend.script, tokens = answering(message, deltas, expected.ended)
    assert said(bench.api, await bench.client.create(**request)) == expected
    await bench.spans(1)
    assert said(bench.api, await bench.client.stream(**request)) == expected
    calls = await bench.check_calls(tokens, 2)
    assert [call.streamed for call in calls] == [False, True]
    return calls


async def check_text(bench: Bench) -> None:
    text = " Ünï\n\n  code \ud83d\ude00\t".encode("utf-16", "surrogatepass").decode("utf-16")
    bench.backend.script, tokens = answering({"content": text}, [{"content": text}])
    answer = await bench.client.create(**question(bench.api, extra_body={"temperature": 0.5}))
    assert said(bench.api, answer) == Said(text=text, ended="stop")
    assert answer.id == "chatcmpl-s"
    assert bench.backend.headers[0]["authorization"] == "Bearer unused"  # Anthropic's clients send it as x-api-key
    assert "x-api-key" not in bench.backend.headers[0]
    calls = await bench.check_calls(tokens, 1)
    assert (calls[0].messages, calls[0].message["content"], calls[0].temperature) == (HI, text, 0.5)
    assert calls[0].response_id == answer.id


async def check_stream(bench: Bench) -> None:
    deltas = [{"content": text} for text in (" a\n", "\n ", "b ")]
    stream = Stream(pieces(deltas, "stop", [7, 8, 9]), before=2)
    bench.backend.script = lambda _: stream.response()
    loop = asyncio.get_running_loop()

    def go_on_once_seen(event: Any) -> None:
        if "' a\\n'" in repr(event):
            loop.call_soon_threadsafe(stream.gate.set)

    async with asyncio.timeout(10):
        answer = await bench.client.stream(go_on_once_seen, **question(bench.api))
    assert said(bench.api, answer) == Said(text=" a\n\n b ", ended="stop")
    assert (await bench.check_calls([7, 8, 9], 1))[0].streamed


async def check_tools(bench: Bench) -> None:
    arguments = '{"city":  "Zürich\\n"}'
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    begun = {"index": 0, **call, "function": {"name": "weather", "arguments": ""}}
    deltas = [
        {"content": "So:\n"},
        {"tool_calls": [begun]},
        {"tool_calls": [{"index": 0, "function": {"arguments": arguments[:9]}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": arguments[9:]}}]},
    ]
    expected = Said("So:\n", "", [("call_1", "weather", {"city": "Zürich\n"})], "tool_calls")
    message = {"content": "So:\n", "tool_calls": [call]}
    calls = await both_ways(bench, with_tools(bench.api), message, deltas, expected)
    assert [each.message["tool_calls"] for each in calls] == [[call]] * 2
    function = bench.backend.requests[0]["tools"][0]["function"]
    assert (function["name"], function["description"], function["parameters"]) == ("weather", "Look.", PARAMETERS)


async def check_parallel_tools(bench: Bench) -> None:
    texts = ['{"city": "A"}', "{}", '{"city": "C"}']
    tool_calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": "weather", "arguments": text}}
        for i, text in enumerate(texts)
    ]
    begun = [{**call, "function": {"name": "weather", "arguments": ""}} for call in tool_calls]
    deltas = [{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(begun)]
    deltas += [  # in turns, as no backend is kept from sending them
        {"tool_calls": [{"index": i, "function": {"arguments": text[half]}}]}
        for half in (slice(1), slice(1, None))
        for i, text in enumerate(texts)
    ]
    values = [{"city": "A"}, {}, {"city": "C"}]
    expected = Said("", "", [(f"call_{i}", "weather", value) for i, value in enumerate(values)], "tool_calls")
    await both_ways(bench, with_tools(bench.api), {"tool_calls": tool_calls}, deltas, expected)


async def check_structured(bench: Bench) -> None:
    expected = Said(text='{"a": 1}', ended="stop")
    deltas = [{"content": '{"a"'}, {"content": ": 1}"}]
    await both_ways(bench, with_schema(bench.api), {"content": '{"a": 1}'}, deltas, expected)
    for asked in bench.backend.requests:
        assert asked["response_format"]["type"] == "json_schema"
        assert asked["response_format"]["json_schema"]["schema"] == SCHEMA


async def check_reasoning(bench: Bench) -> None:
    message = {"reasoning_content": "hm\n", "content": "42"}
    deltas = [{"reasoning_content": "h"}, {"reasoning_content": "m\n"}, {"content": "42"}]
    bench.backend.script, tokens = answering(message, deltas)
    answer = await bench.client.create(**question(bench.api))
    assert said(bench.api, answer) == Said(text="42", thoughts="hm\n", ended="stop")
    await bench.spans(1)
    streamed = await bench.client.stream(**question(bench.api))
    assert said(bench.api, streamed).text == "42"
    if bench.api != "Chat Completions":  # whose SDK does not gather what it does not know
        assert said(bench.api, streamed) == said(bench.api, answer)
    calls = await bench.check_calls(tokens, 2)
    assert [call.message["reasoning_content"] for call in calls] == ["hm\n"] * 2


async def check_images(bench: Bench) -> None:
    bench.backend.script, tokens = answering({"content": "a cat"}, [{"content": "a cat"}])
    answer = await bench.client.create(**with_image(bench.api))
    assert said(bench.api, answer).text == "a cat"
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    assert bench.backend.requests[0]["messages"][0]["content"] == [{"type": "text", "text": "what?\n"}, image]
    await bench.check_calls(tokens, 1)


async def check_n(bench: Bench) -> None:
    if note("n > 1", bench.api) == ABSENT:
        with pytest.raises(bench.client.errors.BadRequestError, match="'n'"):
            await bench.client.create(**question(bench.api, extra_body={"n": 2}))
        assert bench.backend.requests == []
        return
    answer = await bench.client.create(**question(bench.api, n=2))
    assert [choice.message.content for choice in answer.choices] == ["answer 1.0", "answer 1.1"]
    calls = llm_calls(await bench.spans(1))
    assert [call.response_token_ids for call in calls] == [[100, 150], [101, 151]]


async def check_error(bench: Bench) -> None:
    error = {"error": {"message": "the line is long", "type": "server_error", "param": None, "code": None}}
    bench.backend.script = lambda _: JSONResponse(error, 429, {"retry-after": "60"})  # more than the gateway waits
    for stream in (False, True):
        with pytest.raises(bench.client.errors.RateLimitError, match="the line is long") as caught:
            await bench.client.create(**question(bench.api, stream=stream))
        assert caught.value.response.headers["retry-after"] == "60"
    broken = [*pieces([{"content": "a"}, {"content": "b"}], "stop", [7, 8])[:2], event(error)]
    bench.backend.script = lambda _: Stream(broken).response()
    with pytest.raises(bench.client.errors.APIError, match="the line is long"):
        await bench.client.events(**question(bench.api))
    bench.backend.script = lambda _: Stream(broken[:2], error=ConnectionAbortedError()).response()
    with pytest.raises(bench.client.errors.APIError, match="broke off in the middle"):
        await bench.client.events(**question(bench.api))
    bench.backend.script = lambda _: Response(b"<html>", 200, media_type="text/html")
    with pytest.raises(bench.client.errors.InternalServerError, match="answer is none of a "):
        await bench.client.create(**question(bench.api))
    with pytest.raises(bench.client.errors.NotFoundError, match="no model 'nobody'"):
        await bench.client.create(**question(bench.api) | {"model": "nobody"})
    spans = await bench.spans(5)
    assert {span.status.status_code for span in spans} == {"ERROR"}


async def check_disconnect(bench: Bench) -> None:
    stream = Stream(pieces([{"content": "a"}, {"content": "b"}], "stop", [7, 8]), before=2)
    bench.backend.script = lambda _: stream.response()
    await bench.client.leave(**question(bench.api))
    async with asyncio.timeout(10):
        await stream.abandoned.wait()
    (span,) = await bench.spans(1)
    assert "client_left" in (span.status.description or "")
    assert '"a"' in str(span.attributes["agentlightning.llm_call.partial"])
    assert llm_calls([span]) == []


async def check_cancel(bench: Bench) -> None:
    bench.backend.gate.clear()
    await bench.client.give_up(bench.backend.asked, **question(bench.api))
    async with asyncio.timeout(10):
        await bench.backend.abandoned.wait()
    (span,) = await bench.spans(1)
    assert (span.status.status_code, span.attributes["http.response.status_code"]) == ("ERROR", 499)


CHECKS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "text": check_text,
    "stream": check_stream,
    "tools": check_tools,
    "parallel tools": check_parallel_tools,
    "structured output": check_structured,
    "reasoning": check_reasoning,
    "images": check_images,
    "n > 1": check_n,
    "error": check_error,
    "disconnect": check_disconnect,
    "cancel": check_cancel,
}


@pytest.mark.parametrize("feature", FEATURES)
async def test_cell(bench: Bench, feature: str) -> None:
    await CHECKS[feature](bench)


async def test_models_are_those_that_calls_may_name(bench: Bench) -> None:
    """Whichever base URL the SDK makes of the endpoint."""
    assert [model.id for model in (await bench.client.models()).data] == ["policy"]


def test_every_feature_of_the_table_is_checked() -> None:
    assert tuple(CHECKS) == FEATURES
