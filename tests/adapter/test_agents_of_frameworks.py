"""Agents of real frameworks are known by the names their authors gave them, without a word of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from agents import Agent, OpenAIChatCompletionsModel, Runner, handoff
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.doctor.script import Reply, ToolCall
from agentlightning.doctor.scripted_model import ScriptedModel
from agentlightning.types import Span

Json = dict[str, Any]


async def spans_of(agent: Callable[[agl.LLM], Awaitable[float]], script: Callable[[Json], str | Reply]) -> list[Span]:
    """Run an agent once, behind a gateway and with instrumented libraries."""

    @agl.rollout
    async def once(task: str, llm: agl.LLM) -> float:
        return await agent(llm)

    store = agl.InMemoryLightningStore()
    with ScriptedModel(script) as model:
        gateway = agl.LLMProxy(model_list=model.model_list, store=store)
        await gateway.start()
        try:
            runner = agl.LitAgentRunner[str](agl.OtelTracer())
            with runner.run_context(agent=once, store=store):
                rollout = await runner.step("task", resources={"llm": gateway.as_resource()})
        finally:
            await gateway.stop()
    assert rollout.status == "succeeded"
    spans = list(await store.query_spans(rollout.rollout_id))
    await store.close()
    return spans


def labels_and_rewards(spans: list[Span], agent_match: str | None = None) -> list[tuple[str, float | None]]:
    triplets = agl.TracerTraceToTriplet(agent_match=agent_match)(spans)
    assert all(triplet.response["token_ids"] for triplet in triplets)
    return [(triplet.metadata["agent_name"], triplet.reward) for triplet in triplets]


async def test_agents_of_the_openai_agents_sdk_that_hand_over() -> None:
    async def run(llm: agl.LLM) -> float:
        async with AsyncOpenAI(base_url=llm.endpoint, api_key="unused") as client:
            model = OpenAIChatCompletionsModel(model=llm.model, openai_client=client)
            helper = Agent(name="helper", model=model)
            boss = Agent(name="boss", model=model, handoffs=[handoff(helper, tool_name_override="ask_helper")])
            await Runner.run(boss, "Hello", max_turns=4)
        return 1.0

    def script(request: Json) -> Reply:
        return Reply(tool_calls=[ToolCall("ask_helper", {})]) if request.get("tools") else Reply("Done.")

    spans = await spans_of(run, script)
    assert labels_and_rewards(spans) == [("boss", None), ("helper", 1.0)]
    assert labels_and_rewards(spans, "^boss$") == [("boss", 1.0)]


async def test_nodes_of_langgraph_by_their_path() -> None:
    async def run(llm: agl.LLM) -> float:
        async with httpx.AsyncClient() as http:
            model = ChatOpenAI(model=llm.model, base_url=llm.endpoint, api_key="unused", http_async_client=http)
            await graph(model).ainvoke({"messages": [("user", "Hello")]})
        return 1.0

    def graph(model: ChatOpenAI) -> Any:
        async def think(state: MessagesState) -> Any:
            return {"messages": [await model.ainvoke(state["messages"])]}

        inner = StateGraph(MessagesState)
        inner.add_node("search", think)
        inner.add_edge(START, "search")
        outer = StateGraph(MessagesState)
        outer.add_node("planner", think)
        outer.add_node("researcher", inner.compile())
        outer.add_edge(START, "planner")
        outer.add_edge("planner", "researcher")
        return outer.compile()

    spans = await spans_of(run, lambda request: str(len(request["messages"])))
    assert labels_and_rewards(spans) == [("planner", None), ("researcher/search", 1.0)]
    assert labels_and_rewards(spans, "planner") == [("planner", 1.0)]
