"""An agent of the OpenAI Agents SDK with a tool; nothing of it changes but the client's address."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI

import agentlightning as agl

STOCK = {"bolt": 40, "washer": 0, "bracket": 7}
Task = dict[str, Any]
TASKS: list[Task] = [{"item": item, "wanted": wanted} for item, wanted in (("bolt", 30), ("bracket", 9))]


@function_tool
def stock_of(item: str) -> int:
    """Say how many pieces of an item are in stock."""
    return STOCK.get(item, 0)


@agl.rollout
async def clerk(task: Task, llm: agl.LLM) -> float:
    """Let the clerk decide whether an order can be shipped; "yes" or "no", and the right one, is worth 1."""
    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "unused") as client:
        agent = Agent(
            name="clerk",
            instructions="Look up the stock, then answer yes or no.",
            model=OpenAIChatCompletionsModel(model=llm.model, openai_client=client),
            model_settings=ModelSettings(temperature=llm.sampling_parameters.get("temperature")),
            tools=[stock_of],
        )
        result = await Runner.run(agent, f"Can we ship {task['wanted']} pieces of {task['item']}?", max_turns=6)
    expected = "yes" if STOCK[task["item"]] >= task["wanted"] else "no"
    return float(str(result.final_output).strip(" .").lower() == expected)


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
        with runner.run_context(agent=clerk, store=store):
            for task in TASKS:
                rollout = await runner.step(task, resources={"llm": gateway.as_resource()})
                print(agl.find_final_reward(await store.query_spans(rollout.rollout_id)), task)
    finally:
        await gateway.stop()


if __name__ == "__main__":
    asyncio.run(main(agl.InMemoryLightningStore()))
