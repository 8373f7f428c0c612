"""Responses and Messages before the embedded engine: what is captured is what it sampled, token for token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from protocol_clients import Client

from agentlightning.adapter import llm_calls
from agentlightning.demo.policy import load_policy
from agentlightning.inference import Engine, InferenceServer
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

Json = dict[str, Any]

QUESTION = "What is the value of ruby?"
FUNCTION: Json = {"name": "lookup", "parameters": {"type": "object"}}
LIMIT = 24


@pytest.fixture(scope="module")
def policy() -> tuple[Any, Any]:
    return load_policy()


@pytest.fixture
async def proxy(policy: tuple[Any, Any], store: InMemoryLightningStore) -> AsyncIterator[LLMProxy]:
    with Engine(*policy) as engine:
        server = InferenceServer(engine, policy[1], "policy")
        await server.start()
        backend = {"model": "hosted_vllm/policy", "api_base": f"{server.url}/v1"}
        proxy = LLMProxy(model_list=[{"model_name": "policy", "litellm_params": backend}], store=store)
        await proxy.start()
        yield proxy
        await proxy.stop()
        await server.stop()


def request_of(api: str, feature: str) -> Json:
    stop = ["a", "e"] if feature == "stop" else None
    if api == "Messages":
        tools = [{"name": "lookup", "input_schema": FUNCTION["parameters"]}]
        given: Json = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": LIMIT}
        given |= {"stop_sequences": stop} if stop else {}
    else:
        tools = [{"type": "function", **FUNCTION}]
        given = {"input": QUESTION, "max_output_tokens": LIMIT}
    body: Json = {"seed": 5} | ({"stop": stop} if stop and api == "Responses" else {})  # which has no name for it
    return {"model": "policy", **given, **({"tools": tools} if feature == "tools" else {}), "extra_body": body}


def chat_request(feature: str) -> Json:
    more: Json = {"tools": [{"type": "function", "function": FUNCTION}]} if feature == "tools" else {}
    more |= {"stop": ["a", "e"]} if feature == "stop" else {}
    return {"model": "policy", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": LIMIT, **more}


async def streamed(client: Client, request: Json) -> Any:
    if client.api == "Responses":  # whose helper takes an answer that was cut off for none
        return (await client.events(**request))[-1].response
    return await client.stream(**request)


def text_of(api: str, answer: Any) -> str:
    if api == "Responses":
        return answer.output_text
    return "".join(block.text for block in answer.content if block.type == "text")


@pytest.mark.parametrize("feature", ["text", "tools", "stop"])
@pytest.mark.parametrize("api", ["Responses", "Messages"])
async def test_captured_is_sampled(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, api: str, feature: str
) -> None:
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    async with openai.AsyncOpenAI(base_url=endpoint, api_key="none", max_retries=0) as chat:
        completions: Any = chat.chat.completions
        sampled = await completions.create(**chat_request(feature), seed=5, logprobs=True)
    client = Client(api, "async", endpoint)
    answers = [await client.create(**request_of(api, feature)), await streamed(client, request_of(api, feature))]
    await client.close()
    await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempted.attempt.attempt_id)
    calls = llm_calls(list(await store.query_spans(attempted.rollout_id)))
    assert [call.response_id for call in calls] == [sampled.id, *(answer.id for answer in answers)]
    choice = sampled.choices[0]
    for call in calls:
        assert call.prompt_token_ids == sampled.model_extra["prompt_token_ids"]
        assert call.response_token_ids == choice.model_extra["token_ids"]
        assert call.response_logprobs == pytest.approx([token.logprob for token in choice.logprobs.content], abs=1e-4)
        assert call.finish_reason == choice.finish_reason
    assert [text_of(api, answer) for answer in answers] == [choice.message.content or ""] * 2
