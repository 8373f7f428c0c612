"""Agents that go on over several turns by Messages and Responses: their calls make one row, token for token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest
from agents import Agent, OpenAIResponsesModel, Runner, function_tool

import agentlightning as agl
from agentlightning.adapter import llm_calls, merge_calls
from agentlightning.adapter.prefix_break import BreakKind
from agentlightning.doctor.script import Reply, ToolCall
from agentlightning.doctor.scripted_model import ScriptedModel
from agentlightning.errors import StoreUnreachable
from agentlightning.llm_proxy import flush_captures
from agentlightning.types import LLMCall

Json = dict[str, Any]

CALLS = [ToolCall("stock_of", '{"item":  "Bücher\\n"}'), ToolCall("stock_of", '{"item":"b"}')]
REPLIES = [Reply(" Let me see:\n", CALLS), "4 of them.\n\n", "Bye."]
PARAMETERS: Json = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}
MESSAGES_TOOLS: list[Any] = [{"name": "stock_of", "description": "Count.", "input_schema": PARAMETERS}]
RESPONSES_TOOLS: list[Any] = [
    {"type": "function", "name": "stock_of", "description": "Count.", "parameters": PARAMETERS, "strict": False}
]


async def by_messages(llm: agl.LLM) -> str:
    """Gives blocks back as they came."""
    messages: list[Any] = [{"role": "user", "content": "how many?"}]
    async with anthropic.AsyncAnthropic(base_url=llm.endpoint, api_key="unused", max_retries=0) as client:
        answer: Any = None
        for _ in range(3):
            answer = await client.messages.create(
                model=llm.model, max_tokens=99, system="You sell.", messages=messages, tools=MESSAGES_TOOLS
            )
            messages.append({"role": "assistant", "content": answer.content})
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": "2"}
                for block in answer.content
                if block.type == "tool_use"
            ]
            messages.append({"role": "user", "content": results or "thanks"})
    return answer.content[0].text


async def by_streamed_messages(llm: agl.LLM) -> str:
    """Writes blocks anew, as agents do that keep a history of their own."""
    messages: list[Any] = [{"role": "user", "content": "how many?"}]
    async with anthropic.AsyncAnthropic(base_url=llm.endpoint, api_key="unused", max_retries=0) as client:
        kept: list[Json] = []
        for _ in range(3):
            async with client.messages.stream(
                model=llm.model, max_tokens=99, messages=messages, tools=MESSAGES_TOOLS
            ) as stream:
                answer = await stream.get_final_message()
            kept = [block.model_dump(include={"type", "text", "id", "name", "input"}) for block in answer.content]
            messages.append({"role": "assistant", "content": kept})
            results = [
                {"type": "tool_result", "tool_use_id": block["id"], "content": [{"type": "text", "text": "2"}]}
                for block in kept
                if block["type"] == "tool_use"
            ]
            messages.append({"role": "user", "content": results or "thanks"})
    return kept[0]["text"]


async def by_responses(llm: agl.LLM) -> str:
    """Sends all items each time."""
    items: list[Any] = [{"role": "user", "content": "how many?"}]
    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused", max_retries=0) as client:
        answer: Any = None
        for _ in range(3):
            answer = await client.responses.create(
                model=llm.model, instructions="You sell.", input=items, tools=RESPONSES_TOOLS, store=False
            )
            items += [*answer.output, *(_results(answer) or [{"role": "user", "content": "thanks"}])]
    return answer.output_text


async def by_previous_response(llm: agl.LLM) -> str:
    """Sends only what is new."""
    previous: Any = None
    items: list[Any] = [{"role": "user", "content": "how many?"}]
    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused", max_retries=0) as client:
        responses: Any = client.responses
        answer: Any = None
        for turn in range(3):
            request: Json = {"instructions": "You sell.", "input": items, "tools": RESPONSES_TOOLS}
            if turn == 1:
                async with responses.stream(
                    model=llm.model, previous_response_id=previous or openai.omit, **request
                ) as stream:
                    answer = await stream.get_final_response()
            else:
                answer = await responses.create(model=llm.model, previous_response_id=previous, **request)
            previous, items = answer.id, _results(answer) or [{"role": "user", "content": "thanks"}]
    return answer.output_text


async def by_agents_sdk(llm: agl.LLM) -> str:
    """The OpenAI Agents SDK, which speaks Responses unless told otherwise."""

    @function_tool
    def stock_of(item: str) -> int:
        """Count."""
        return len(item)

    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused", max_retries=0) as client:
        model = OpenAIResponsesModel(model=llm.model, openai_client=client)
        agent = Agent(name="clerk", instructions="You sell.", model=model, tools=[stock_of])
        first = await Runner.run(agent, "how many?")
        second = Runner.run_streamed(agent, [*first.to_input_list(), {"role": "user", "content": "thanks"}])
        assert [event async for event in second.stream_events()]
    return str(second.final_output)


def _results(answer: Any) -> list[Any]:
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": "2"}
        for item in answer.output
        if item.type == "function_call"
    ]


@pytest.fixture
async def store() -> AsyncIterator[agl.InMemoryLightningStore]:
    store = agl.InMemoryLightningStore()
    yield store
    await store.close()


async def recorded(
    store: agl.InMemoryLightningStore, talk: Callable[[agl.LLM], Awaitable[str]]
) -> tuple[str, list[LLMCall], list[Json]]:
    """What the agent said last, its calls, and what the backend was asked."""
    async with ScriptedModel(REPLIES) as model:
        proxy = agl.LLMProxy(model_list=model.model_list, store=store)
        await proxy.start()
        attempted = await store.start_rollout(input={})
        attempt_id = attempted.attempt.attempt_id
        try:
            last = await talk(proxy.as_resource(attempted.rollout_id, attempt_id))
            await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempt_id)
        finally:
            await proxy.stop()
    return last, llm_calls(list(await store.query_spans(attempted.rollout_id))), model.requests


@pytest.mark.parametrize("talk", [by_messages, by_streamed_messages, by_responses, by_previous_response, by_agents_sdk])
async def test_three_turns_are_one_row(
    store: agl.InMemoryLightningStore, talk: Callable[[agl.LLM], Awaitable[str]]
) -> None:
    last, calls, requests = await recorded(store, talk)
    assert last == "Bye."
    assert [call.messages for call in calls] == [request["messages"] for request in requests]
    merged = merge_calls(calls)
    assert (merged.counters.calls, merged.counters.rows, merged.counters.calls_without_tokens) == (3, 1, 0)
    assert sum(merged.rows[0].mask) == sum(len(call.response_token_ids) for call in calls)


async def test_a_conversation_goes_on_after_a_restart_of_the_gateway(store: agl.InMemoryLightningStore) -> None:
    attempted = await store.start_rollout(input={})
    previous: Any = None
    answer: Any = None
    items: list[Any] = [{"role": "user", "content": "how many?"}]
    async with ScriptedModel(REPLIES) as model:
        for _ in range(3):
            proxy = agl.LLMProxy(model_list=model.model_list, store=store)
            await proxy.start()
            llm = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id)
            async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused", max_retries=0) as client:
                responses: Any = client.responses
                answer = await responses.create(
                    model=llm.model,
                    instructions="You sell.",
                    input=items,
                    tools=RESPONSES_TOOLS,
                    previous_response_id=previous,
                )
            previous, items = answer.id, _results(answer) or [{"role": "user", "content": "thanks"}]
            await proxy.stop()
    assert answer.output_text == "Bye."
    counters = merge_calls(llm_calls(list(await store.query_spans(attempted.rollout_id)))).counters
    assert (counters.calls, counters.rows) == (3, 1)


class AwayStore(agl.InMemoryLightningStore):
    """Lets nobody read spans while it is told so."""

    away = False

    async def query_spans(self, *args: Any, **kwargs: Any) -> Any:
        if self.away:
            raise StoreUnreachable("away")
        return await super().query_spans(*args, **kwargs)


async def test_a_conversation_that_the_store_cannot_give_now_is_worth_another_try() -> None:
    store = AwayStore()
    attempted = await store.start_rollout(input={})
    previous: Any = None
    async with ScriptedModel(["a", "b"]) as model:
        for store.away in (False, True):
            proxy = agl.LLMProxy(model_list=model.model_list, store=store)
            await proxy.start()
            llm = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id)
            async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused", max_retries=0) as client:
                if previous is None:
                    previous = (await client.responses.create(model=llm.model, input="hi")).id
                else:
                    with pytest.raises(openai.InternalServerError, match="try again") as caught:
                        await client.responses.create(model=llm.model, input="go", previous_response_id=previous)
                    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "5")
                    store.away = False
                    answer = await client.responses.create(model=llm.model, input="go", previous_response_id=previous)
                    assert answer.output_text == "b"
            await proxy.stop()
    await store.close()


async def test_a_conversation_of_another_attempt_is_not_known(store: agl.InMemoryLightningStore) -> None:
    async with ScriptedModel(["a"]) as model:
        proxy = agl.LLMProxy(model_list=model.model_list, store=store)
        await proxy.start()
        one, two = await store.start_rollout(input={}), await store.start_rollout(input={})
        llms = [proxy.as_resource(each.rollout_id, each.attempt.attempt_id) for each in (one, two)]
        clients = [openai.AsyncOpenAI(base_url=llm.endpoint, api_key="unused", max_retries=0) for llm in llms]
        answer = await clients[0].responses.create(model=model.name, input="hi")
        with pytest.raises(openai.BadRequestError, match="of this attempt is known"):
            await clients[1].responses.create(model=model.name, input="go", previous_response_id=answer.id)
        await clients[0].close()
        await clients[1].close()
        await proxy.stop()


async def test_a_history_that_the_agent_changed_is_found_in_its_messages(store: agl.InMemoryLightningStore) -> None:
    async def forgetful(llm: agl.LLM) -> str:
        async with anthropic.AsyncAnthropic(base_url=llm.endpoint, api_key="unused", max_retries=0) as client:
            first: list[Any] = [{"role": "user", "content": "how many?"}]
            answer: Any = await client.messages.create(model=llm.model, max_tokens=99, messages=first)
            changed = {"role": "assistant", "content": answer.content[0].text.strip()}
            later: list[Any] = [*first, changed, {"role": "user", "content": "thanks"}]
            await client.messages.create(model=llm.model, max_tokens=99, messages=later)
        return ""

    _, calls, _ = await recorded(store, forgetful)
    counters = merge_calls(calls).counters
    assert (counters.rows, dict(counters.broken_by_kind)) == (2, {BreakKind.HISTORY_EDIT: 1})


async def test_tokens_are_counted_by_the_backend_and_leave_no_call(store: agl.InMemoryLightningStore) -> None:
    counted: list[int] = []

    async def count(llm: agl.LLM) -> str:
        async with anthropic.AsyncAnthropic(base_url=llm.endpoint, api_key="unused", max_retries=0) as client:
            question: list[Any] = [{"role": "user", "content": "how many?"}]
            number = await client.messages.count_tokens(model=llm.model, messages=question, tools=MESSAGES_TOOLS)
            counted.append(number.input_tokens)
            await client.messages.create(model=llm.model, max_tokens=9, messages=question, tools=MESSAGES_TOOLS)
        return ""

    _, (call,), requests = await recorded(store, count)
    assert counted == [len(call.prompt_token_ids)]
    assert len(requests) == 1
