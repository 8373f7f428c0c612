"""A LangGraph agent with tools, unchanged: a loop of model and tool nodes."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import httpx
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

import agentlightning as agl

Task = dict[str, Any]
TASKS: list[Task] = [
    {"question": "A box holds 12 eggs. How many eggs are in 17 boxes?", "answer": 204},
    {"question": "I have 250 euros and spend 68. How many are left?", "answer": 182},
]


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


@tool
def subtract(a: int, b: int) -> int:
    """Subtract b from a."""
    return a - b


TOOLS = [multiply, subtract]


def build_graph(llm: agl.LLM, http: httpx.AsyncClient) -> Any:
    """Return the agent as LangGraph's users write it; of all this only `base_url` is ours."""
    model = ChatOpenAI(
        model=llm.model,
        base_url=llm.endpoint,
        api_key=llm.api_key or "unused",
        http_async_client=http,
        **llm.sampling_parameters,
    ).bind_tools(TOOLS)

    async def think(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode(TOOLS))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph.compile(name="calculator")


@agl.rollout
async def calculator(task: Task, llm: agl.LLM) -> float:
    """Let the graph answer; the right number at the end of its last message is worth 1."""
    async with httpx.AsyncClient() as http:  # LangChain's own would stay open behind each rollout
        graph = build_graph(llm, http)
        state = await graph.ainvoke({"messages": [("user", task["question"])]}, {"recursion_limit": 12})
    return float(re.findall(r"-?\d+", str(state["messages"][-1].content))[-1:] == [str(task["answer"])])


async def main(store: agl.LightningStore) -> None:
    """Run the tasks with the model server that the environment names, and print their rewards."""
    model = {
        "model": os.environ["OPENAI_MODEL"],
        "api_base": os.environ["OPENAI_BASE_URL"],
        "api_key": os.environ.get("OPENAI_API_KEY"),
    }
    gateway = agl.LLMProxy(model_list=[{"model_name": "policy", "litellm_params": model}], store=store)
    await gateway.start()
    try:
        runner = agl.LitAgentRunner[Task](agl.OtelTracer())
        with runner.run_context(agent=calculator, store=store):
            for task in TASKS:
                rollout = await runner.step(task, resources={"llm": gateway.as_resource()})
                print(agl.find_final_reward(await store.query_spans(rollout.rollout_id)), task["question"])
    finally:
        await gateway.stop()


if __name__ == "__main__":
    asyncio.run(main(agl.InMemoryLightningStore()))
