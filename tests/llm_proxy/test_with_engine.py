"""From the unmodified OpenAI client through gateway and engine to training rows: the tokens stay exact."""

from __future__ import annotations

import asyncio
from typing import Any

import openai

from agentlightning.adapter import llm_calls, merge_calls
from agentlightning.demo.policy import load_policy
from agentlightning.inference import Engine, InferenceServer
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout


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
    store: InMemoryLightningStore, attempted: AttemptedRollout
) -> None:
    model, tokenizer = load_policy()
    with Engine(model, tokenizer) as engine:
        server = InferenceServer(engine, tokenizer, "policy")
        await server.start()
        backend = {"model": "hosted_vllm/policy", "api_base": f"{server.url}/v1"}
        proxy = LLMProxy(model_list=[{"model_name": "policy", "litellm_params": backend}], store=store)
        await proxy.start()
        ids = attempted.rollout_id, attempted.attempt.attempt_id
        endpoint = proxy.as_resource(*ids).endpoint
        talks = await asyncio.gather(*(converse(endpoint, f"What is the value of {name}?") for name in "abc"))
        await flush_captures({"llm": proxy.as_resource()}, *ids)
        await proxy.stop()
        await server.stop()
    calls = llm_calls(list(await store.query_spans(attempted.rollout_id)))
    seen = {reply.id: reply for talk in talks for reply in talk}
    assert sorted(call.response_id or "" for call in calls) == sorted(seen)
    for call in calls:
        reply = seen[call.response_id]
        assert call.prompt_token_ids == reply.model_extra["prompt_token_ids"]
        assert call.response_token_ids == reply.choices[0].model_extra["token_ids"]
        assert call.response_logprobs == [token.logprob for token in reply.choices[0].logprobs.content]
        assert (call.temperature, call.weights_version) == (0.7, 0)
        assert tokenizer.decode(call.prompt_token_ids).endswith("<|im_start|>assistant\n")
    assert merge_calls(calls).counters.calls_without_tokens == 0
