"""From the unmodified OpenAI client through gateway and engine to training rows: the tokens stay exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from agentlightning.adapter import llm_calls, merge_calls
from agentlightning.demo.policy import load_policy
from agentlightning.inference import Engine, InferenceServer
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, LLMCall


@pytest.fixture(scope="module")
def policy() -> tuple[Any, Any]:
    return load_policy()


@pytest.fixture
async def proxy(policy: tuple[Any, Any], store: InMemoryLightningStore) -> AsyncIterator[LLMProxy]:
    model, tokenizer = policy
    with Engine(model, tokenizer) as engine:
        server = InferenceServer(engine, tokenizer, "policy")
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
    policy: tuple[Any, Any], proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout
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
