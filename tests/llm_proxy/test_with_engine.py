"""From the unmodified OpenAI client through gateway and engine to training rows: the tokens stay exact."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from agentlightning.adapter import llm_calls, merge_calls
from agentlightning.demo.policy import load_policy
from agentlightning.inference import Engine, InferenceServer
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, LLMCall

DEADLINE = 30.0
MESSAGES: list[Any] = [{"role": "user", "content": "What is the value of ruby?"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "lookup", "parameters": {}}}]


@pytest.fixture(scope="module")
def policy() -> tuple[Any, Any]:
    return load_policy()


@pytest.fixture
def engine(policy: tuple[Any, Any]) -> Iterator[Engine]:
    with Engine(*policy) as engine:
        yield engine


@pytest.fixture
async def proxy(engine: Engine, policy: tuple[Any, Any], store: InMemoryLightningStore) -> AsyncIterator[LLMProxy]:
    server = InferenceServer(engine, policy[1], "policy")
    await server.start()
    backend = {"model": "hosted_vllm/policy", "api_base": f"{server.url}/v1"}
    proxy = LLMProxy(model_list=[{"model_name": "policy", "litellm_params": backend}], store=store)
    await proxy.start()
    yield proxy
    await proxy.stop()
    await server.stop()


async def calls_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[LLMCall]:
    await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempted.attempt.attempt_id)
    return llm_calls(list(await store.query_spans(attempted.rollout_id)))


async def converse(endpoint: str, question: str) -> list[Any]:
    """Two turns of a chat; returns the replies as the client saw them."""
    messages: list[Any] = [{"role": "user", "content": question}]
    replies: list[Any] = []
    async with openai.AsyncOpenAI(base_url=endpoint, api_key="none", max_retries=0) as client:
        for _ in range(2):
            reply = await client.chat.completions.create(
                model="policy", messages=messages, temperature=0.7, max_tokens=8, logprobs=True
            )
            replies.append(reply)
            messages += [{"role": "assistant", "content": reply.choices[0].message.content}]
            messages += [{"role": "user", "content": "Go on."}]
    return replies


async def test_captured_tokens_are_the_sampled_tokens(
    policy: tuple[Any, Any],
    engine: Engine,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
) -> None:
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    talks = await asyncio.gather(*(converse(endpoint, f"What is the value of {name}?") for name in "abc"))
    calls = await calls_of(proxy, store, attempted)
    seen = {reply.id: reply for talk in talks for reply in talk}
    assert sorted(call.response_id or "" for call in calls) == sorted(seen)
    for call in calls:
        reply = seen[call.response_id]
        assert call.prompt_token_ids == reply.model_extra["prompt_token_ids"]
        assert call.response_token_ids == reply.choices[0].model_extra["token_ids"]
        assert call.response_logprobs == [token.logprob for token in reply.choices[0].logprobs.content]
        assert (call.temperature, call.weights_version) == (0.7, 0)
        assert policy[1].decode(call.prompt_token_ids).endswith("<|im_start|>assistant\n")
    assert merge_calls(calls).counters.calls_without_tokens == 0
    # Each second turn begins with the tokens of its first.
    assert engine.stats().reused_tokens > 3 * min(len(call.prompt_token_ids) for call in calls) - 3


async def test_text_completions_are_captured_alike_and_leave_chat_as_it_is(
    policy: tuple[Any, Any], proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout
) -> None:
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    async with openai.AsyncOpenAI(base_url=endpoint, api_key="none", max_retries=0) as client:
        text = await client.completions.create(model="policy", prompt="What is", max_tokens=4, temperature=0.7)
        chat = await client.chat.completions.create(
            model="policy", messages=[{"role": "user", "content": "What is it?"}], max_tokens=4
        )
    calls = await calls_of(proxy, store, attempted)
    assert [call.response_id for call in calls] == [text.id, chat.id]
    assert calls[0].prompt_token_ids == policy[1].encode("What is")
    assert calls[0].response_logprobs == text.choices[0].logprobs.token_logprobs
    for call in calls:
        assert call.response_token_ids
        assert len(call.response_logprobs or []) == len(call.response_token_ids)


class Streamed:
    """What a client got of the answers of one stream, by their numbers."""

    def __init__(self) -> None:
        self.response_id = ""
        self.prompt: list[int] = []
        self.text: dict[int, str] = {}
        self.token_ids: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[float]] = {}

    def add(self, chunk: Any) -> None:
        self.response_id = chunk.id
        self.prompt += (chunk.model_extra or {}).get("prompt_token_ids") or []
        for choice in chunk.choices:
            self.text[choice.index] = self.text.get(choice.index, "") + (choice.delta.content or "")
            self.token_ids.setdefault(choice.index, []).extend(choice.model_extra["token_ids"])
            if choice.logprobs:
                self.logprobs.setdefault(choice.index, []).extend(each.logprob for each in choice.logprobs.content)


@pytest.mark.parametrize("options", [{}, {"n": 3}, {"stop": ["a", "e"]}, {"tools": TOOLS}])
async def test_tokens_of_a_stream_are_captured_as_they_were_sampled(
    policy: tuple[Any, Any],
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    options: dict[str, Any],
) -> None:
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    request: dict[str, Any] = {"model": "policy", "seed": 5, "max_tokens": 24, "logprobs": True, **options}
    seen = Streamed()
    async with openai.AsyncOpenAI(base_url=endpoint, api_key="none", max_retries=0) as client:
        async for chunk in await client.chat.completions.create(**request, messages=MESSAGES, stream=True):
            seen.add(chunk)
        whole = await client.chat.completions.create(**request, messages=MESSAGES)
    calls = await calls_of(proxy, store, attempted)
    streamed = sorted((call for call in calls if call.response_id == seen.response_id), key=str)
    assert len(calls) == 2 * options.get("n", 1)
    assert all(call.prompt_token_ids == seen.prompt == whole.model_extra["prompt_token_ids"] for call in calls)
    assert sorted(call.response_token_ids or [] for call in streamed) == sorted(seen.token_ids.values())
    assert sorted(call.response_logprobs or [] for call in streamed) == sorted(seen.logprobs.values())
    for choice in whole.choices:
        assert choice.model_extra["token_ids"] == seen.token_ids[choice.index]
        assert (choice.message.content or "") == seen.text[choice.index]


async def test_a_client_that_hangs_up_on_the_gateway_frees_the_engine(
    policy: tuple[Any, Any], engine: Engine, proxy: LLMProxy, attempted: AttemptedRollout
) -> None:
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    with never_ending(policy[0], engine):
        async with openai.AsyncOpenAI(base_url=endpoint, api_key="none", max_retries=0) as client:
            stream = await client.completions.create(model="policy", prompt="What", stream=True)
            await anext(aiter(stream))
            await stream.close()
        async with asyncio.timeout(DEADLINE):
            while engine.stats().running:  # noqa: ASYNC110  # a counter of another thread, which signals nobody
                await asyncio.sleep(0.001)
    assert engine.stats().generated_tokens < engine.context_length - 10


@contextmanager
def never_ending(model: Any, engine: Engine) -> Iterator[None]:
    """Answers go on to the end of the context."""

    def forbid(module: Any, args: Any, output: Any) -> None:
        output.logits[..., list(engine.end_token_ids)] = -math.inf

    hook = model.register_forward_hook(forbid)
    yield
    hook.remove()
