"""Clients and frameworks that stream, as they are: each call is captured once, with its tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anthropic
import httpx
import openai
import pytest
from agents import Agent, Model, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

import agentlightning as agl
from agentlightning._internal.threads import run_in_thread
from agentlightning.adapter import merge_calls
from agentlightning.adapter.llm_call import read_calls
from agentlightning.doctor.scripted_model import ScriptedModel

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
ANSWER = "Answer to message 1."
OPENINFERENCE_READS_NO_RAW_STREAM = pytest.mark.filterwarnings(
    # Its instrumentation of the async client forgets to await what it parses.
    "ignore:coroutine 'AsyncAPIResponse.parse' was never awaited:RuntimeWarning"
)


@pytest.fixture
async def store() -> AsyncIterator[agl.InMemoryLightningStore]:
    store = agl.InMemoryLightningStore()
    yield store
    await store.close()


@pytest.fixture
async def proxy(store: agl.InMemoryLightningStore) -> AsyncIterator[agl.LLMProxy]:
    async with ScriptedModel() as model:
        proxy = agl.LLMProxy(model_list=model.model_list, store=store)
        await proxy.start()
        yield proxy
        await proxy.stop()


async def openai_sync(llm: agl.LLM) -> str:
    def read() -> str:
        with openai.OpenAI(base_url=llm.endpoint, api_key="unused") as client:
            stream = client.chat.completions.create(model=llm.model, messages=MESSAGES, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    return await run_in_thread(read, "sync-client")


async def openai_helper(llm: agl.LLM) -> str:
    async with (
        openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused") as client,
        client.chat.completions.stream(model=llm.model, messages=MESSAGES) as stream,
    ):
        assert [event async for event in stream]
        return (await stream.get_final_completion()).choices[0].message.content or ""


async def openai_with_usage(llm: agl.LLM) -> str:
    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused") as client:
        stream = await client.chat.completions.create(
            model=llm.model, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])


async def langchain(llm: agl.LLM) -> str:
    async with httpx.AsyncClient() as http:
        model = ChatOpenAI(model=llm.model, base_url=llm.endpoint, api_key=SecretStr("unused"), http_async_client=http)
        return "".join([str(chunk.content) async for chunk in model.astream("hi")])


async def langchain_responses(llm: agl.LLM) -> str:
    async with httpx.AsyncClient() as http:
        model = ChatOpenAI(
            model=llm.model,
            base_url=llm.endpoint,
            api_key=SecretStr("unused"),
            http_async_client=http,
            use_responses_api=True,
        )
        return "".join([chunk.text async for chunk in model.astream("hi")])


async def responses_helper(llm: agl.LLM) -> str:
    async with (
        openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused") as client,
        client.responses.stream(model=llm.model, input="hi") as stream,
    ):
        assert [event async for event in stream]
        return (await stream.get_final_response()).output_text


async def anthropic_helper(llm: agl.LLM) -> str:
    async with (
        anthropic.AsyncAnthropic(base_url=llm.endpoint, api_key="unused") as client,
        client.messages.stream(model=llm.model, max_tokens=9, messages=MESSAGES) as stream,
    ):
        return "".join([text async for text in stream.text_stream])


async def anthropic_events(llm: agl.LLM) -> str:
    def read() -> str:
        with anthropic.Anthropic(base_url=llm.endpoint, api_key="unused") as client:
            events: Any = client.messages.create(model=llm.model, max_tokens=9, messages=MESSAGES, stream=True)
            return "".join(event.delta.text for event in events if event.type == "content_block_delta")

    return await run_in_thread(read, "sync-client")


async def agents_sdk(llm: agl.LLM) -> str:
    return await by_agents_sdk(llm, OpenAIChatCompletionsModel)


async def agents_sdk_responses(llm: agl.LLM) -> str:
    return await by_agents_sdk(llm, OpenAIResponsesModel)


async def by_agents_sdk(llm: agl.LLM, kind: Callable[..., Model]) -> str:
    @function_tool
    def stock_of(item: str) -> int:
        """Say how many there are."""
        return len(item)

    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused") as client:
        model = kind(model=llm.model, openai_client=client)
        result = Runner.run_streamed(Agent(name="clerk", model=model, tools=[stock_of]), "hi")
        assert [event async for event in result.stream_events()]
    return str(result.final_output)


@pytest.mark.parametrize(
    ("client", "answer", "n_calls"),
    [
        (openai_sync, ANSWER, 1),
        (openai_helper, ANSWER, 1),
        (openai_with_usage, ANSWER, 1),
        (langchain, ANSWER, 1),
        (agents_sdk, "Answer to message 3.", 2),
        (responses_helper, ANSWER, 1),
        (langchain_responses, ANSWER, 1),
        pytest.param(agents_sdk_responses, "Answer to message 3.", 2, marks=OPENINFERENCE_READS_NO_RAW_STREAM),
        (anthropic_helper, ANSWER, 1),
        (anthropic_events, ANSWER, 1),
    ],
)
async def test_a_client_that_streams_is_captured_once(
    proxy: agl.LLMProxy,
    store: agl.InMemoryLightningStore,
    client: Callable[[agl.LLM], Awaitable[str]],
    answer: str,
    n_calls: int,
) -> None:
    answers: list[str] = []

    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> None:
        answers.append(await client(llm))

    runner = agl.LitAgentRunner[str](agl.OtelTracer())
    with runner.run_context(agent=agent, store=store):
        rollout = await runner.step("hi", resources={"llm": proxy.as_resource()})
    assert answers == [answer]
    reading = read_calls(await store.query_spans(rollout.rollout_id))
    assert reading.failed == []
    assert [(call.source, call.streamed) for call in reading.calls] == [("gateway", True)] * n_calls
    counters = merge_calls(reading.calls).counters
    assert (counters.rows, counters.calls_without_tokens) == (1, 0)
