from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import aiohttp
import openai
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from agentlightning.errors import ModelError
from agentlightning.inference import Completion, CompletionPart, Engine, FinishReason, InferenceServer, SamplingParams
from agentlightning.llm_proxy.dialects.chat_stream import merge_chunks
from agentlightning.llm_proxy.sse import read_stream

DEADLINE = 30.0
MESSAGES: list[Any] = [{"role": "user", "content": "What is the value of ruby?"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "lookup", "parameters": {}}}]
CALL = '<tool_call>\n{"name": "lookup", "arguments": {"key": "ruby"}}\n</tool_call>'
Json = dict[str, Any]
Serve = Callable[[Any], Any]


class Scripted:
    """A sampler that says what it is told, in parts of two tokens."""

    def __init__(self, token_ids: list[int], end: int) -> None:
        self.token_ids = token_ids
        self.end_token_ids = frozenset({end})
        self.weights_version = 5
        self.error: Exception | None = None
        self.reason: FinishReason = "stop"

    async def generate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> Completion:
        count = len(self.token_ids)
        return Completion(
            token_ids=self.token_ids, logprobs=[-0.5] * count, finish_reason=self.reason, weights_versions=[5] * count
        )

    async def stream(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> AsyncGenerator[CompletionPart]:
        for start in range(0, len(self.token_ids), 2):
            token_ids = self.token_ids[start : start + 2]
            reason = self.reason if start + 2 >= len(self.token_ids) and self.error is None else None
            count = len(token_ids)
            yield CompletionPart(
                token_ids=token_ids, logprobs=[-0.5] * count, finish_reason=reason, weights_versions=[5] * count
            )
        if self.error is not None:
            raise self.error

    async def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        raise NotImplementedError

    async def update_weights(self, state_dict: Mapping[str, torch.Tensor], version: int) -> None:
        raise NotImplementedError


@pytest.fixture
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Any:
    with Engine(model, tokenizer) as engine:
        yield engine


@pytest.fixture
async def url(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> AsyncIterator[str]:
    server = InferenceServer(engine, tokenizer, "tiny")
    await server.start()
    yield f"{server.url}/v1"
    await server.stop()


@pytest.fixture
async def scripted(tokenizer: PreTrainedTokenizerFast) -> AsyncIterator[tuple[Scripted, str]]:
    sampler = Scripted([], tokenizer.eos_token_id)
    server = InferenceServer(sampler, tokenizer, "tiny")
    await server.start()
    yield sampler, f"{server.url}/v1"
    await server.stop()


async def post(url: str, path: str, body: Json) -> tuple[bytes, str]:
    async with aiohttp.ClientSession() as session, session.post(f"{url}{path}", json=body) as reply:
        return await reply.read(), reply.content_type


async def ask(url: str, body: Json) -> tuple[Json, list[Json]]:
    """The answer at once, and the chunks of the same answer streamed."""
    path = "/chat/completions" if "messages" in body else "/completions"
    whole, _ = await post(url, path, body)
    stream, content_type = await post(url, path, body | {"stream": True, "stream_options": {"include_usage": True}})
    assert content_type == "text/event-stream"
    assert stream.endswith(b"data: [DONE]\n\n")
    return json.loads(whole), read_stream(stream)


def assert_same(chunks: list[Json], reply: Json) -> None:
    """The same to the last byte but for what is made anew for each; log-probabilities up to rounding."""
    merged = merge_chunks(chunks)
    assert take_logprobs(merged) == pytest.approx(take_logprobs(reply), abs=1e-4)
    assert lasting(merged) == lasting(reply)


def take_logprobs(reply: Json) -> list[float]:
    taken: list[float] = []
    for choice in reply["choices"]:
        logprobs = choice["logprobs"] or {}
        taken += logprobs.pop("token_logprobs", [])
        taken += [token.pop("logprob") for token in logprobs.get("content", [])]
    return taken


def lasting(reply: Json) -> Json:
    for choice in reply["choices"]:
        for call in choice.get("message", {}).get("tool_calls", []):
            assert call.pop("id").startswith("call_")
    return {key: value for key, value in reply.items() if key not in ("id", "created", "object")}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stop", [[], ["e", "\n"]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_chunks_put_together_are_the_reply(url: str, n: int, stop: list[str], temperature: float) -> None:
    body = {"model": "tiny", "seed": 3, "n": n, "stop": stop, "temperature": temperature, "max_tokens": 40}
    body |= {"return_token_ids": True}
    for request in (
        body | {"messages": MESSAGES, "logprobs": True},
        body | {"messages": MESSAGES, "tools": TOOLS},
        body | {"prompt": "The value is", "logprobs": 1},
        body | {"prompt": "The value is", "return_token_ids": False},
    ):
        reply, chunks = await ask(url, request)
        assert_same(chunks, reply)
        assert len({chunk["id"] for chunk in chunks}) == 1


async def test_tokens_come_with_their_chunks_and_the_prompt_with_the_first(url: str) -> None:
    body = {"model": "tiny", "messages": MESSAGES, "seed": 1, "max_tokens": 9, "return_token_ids": True}
    reply, chunks = await ask(url, body | {"logprobs": True})
    *answer, usage = chunks
    assert [("prompt_token_ids" in chunk, chunk.get("weights_version")) for chunk in answer] == [
        (True, 0),
        *[(False, None)] * (len(answer) - 1),
    ]
    for chunk in answer:
        (choice,) = chunk["choices"]
        assert len(choice["token_ids"]) == len(choice["logprobs"]["content"])
    assert [chunk["choices"][0]["finish_reason"] for chunk in answer] == [*[None] * (len(answer) - 1), "length"]
    assert usage["choices"] == []
    assert usage["usage"] == reply["usage"]
    assert answer[0]["object"] == "chat.completion.chunk"


async def test_usage_comes_only_when_asked_for(url: str) -> None:
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 3, "stream": True}
    stream, _ = await post(url, "/chat/completions", body)
    assert not any(chunk.get("usage") for chunk in read_stream(stream))


async def test_no_text_of_a_stop_string_is_ever_sent(
    scripted: tuple[Scripted, str], tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler, url = scripted
    sampler.token_ids = tokenizer.encode("a st or stop")
    body = {"model": "tiny", "messages": MESSAGES, "stop": "stop", "return_token_ids": True}
    reply, chunks = await ask(url, body)
    assert reply["choices"][0]["message"]["content"] == "a st or "
    assert_same(chunks, reply)
    assert reply["choices"][0]["token_ids"] == sampler.token_ids


async def test_openais_client_reads_text_and_parallel_calls(
    scripted: tuple[Scripted, str], tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler, url = scripted
    sampler.token_ids = tokenizer.encode(f"Looking 😀\n{CALL}\n{CALL.replace('ruby', 'opal')}<|im_end|>")
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        async with client.chat.completions.stream(model="tiny", messages=MESSAGES, tools=TOOLS) as stream:
            kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    (choice,) = final.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Looking 😀"
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [
        {"key": "ruby"},
        {"key": "opal"},
    ]
    assert kinds.count("content.delta") > 1
    assert kinds.count("tool_calls.function.arguments.delta") > 4


async def test_arguments_are_sent_while_they_are_written(
    scripted: tuple[Scripted, str], tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler, url = scripted
    sampler.token_ids = tokenizer.encode(f"{CALL} and more text behind it<|im_end|>")
    reply, chunks = await ask(url, {"model": "tiny", "messages": MESSAGES, "tools": TOOLS})
    assert_same(chunks, reply)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert calls[0]["function"] == {"name": "lookup", "arguments": ""}
    parts = [call["function"]["arguments"] for call in calls]
    assert "".join(parts) == '{"key": "ruby"}'
    assert len(parts) > 3


async def test_a_call_that_the_limit_cuts_off_is_one_that_ends_for_length(
    scripted: tuple[Scripted, str], tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler, url = scripted
    sampler.token_ids, sampler.reason = tokenizer.encode(CALL[: CALL.index("by")]), "length"
    reply, chunks = await ask(url, {"model": "tiny", "messages": MESSAGES, "tools": TOOLS})
    assert_same(chunks, reply)
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"key": "ru'


async def test_a_conversations_next_turn_goes_on_from_where_the_last_one_was(engine: Engine, url: str) -> None:
    body: Json = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "stream": True, "return_token_ids": True}
    stream, _ = await post(url, "/chat/completions", body)
    first = merge_chunks(read_stream(stream))
    turns = [*MESSAGES, first["choices"][0]["message"], {"role": "user", "content": "And of opal?"}]
    await post(url, "/chat/completions", body | {"messages": turns})
    assert engine.stats().reused_tokens >= len(first["prompt_token_ids"])


@pytest.mark.parametrize(("error", "message"), [(ModelError("not finite"), "finite"), (ZeroDivisionError(), "Zero")])
async def test_an_answer_that_breaks_off_says_so_in_the_stream(
    scripted: tuple[Scripted, str], tokenizer: PreTrainedTokenizerFast, error: Exception, message: str
) -> None:
    sampler, url = scripted
    sampler.token_ids, sampler.error = tokenizer.encode("The value"), error
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match=message):
            async for _ in stream:
                pass


async def test_what_cannot_be_answered_gets_a_status_and_no_stream(url: str, scripted: tuple[Scripted, str]) -> None:
    sampler, other = scripted
    sampler.error = ZeroDivisionError("secret")
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="1024"):
            await client.completions.create(model="tiny", prompt=[5] * 1024, stream=True)
        client.base_url = other
        with pytest.raises(openai.InternalServerError, match="ZeroDivisionError") as caught:
            await client.completions.create(model="tiny", prompt="x", stream=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_leaves_frees_its_rows(model: PreTrainedModel, engine: Engine, url: str, n: int) -> None:
    def never_end(module: Any, args: Any, output: Any) -> None:
        output.logits[..., list(engine.end_token_ids)] = -math.inf

    model.register_forward_hook(never_end)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, n=n, stream=True)
        await anext(aiter(stream))
        await stream.close()
    async with asyncio.timeout(DEADLINE):
        while engine.stats().running:  # noqa: ASYNC110  # counters of another thread, which signals nobody
            await asyncio.sleep(0.001)
    assert engine.stats().generated_tokens < n * 900
