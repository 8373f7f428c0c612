"""An agent whose tools come from an MCP server, which it starts itself."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from openai import AsyncOpenAI

import agentlightning as agl

SERVER = StdioServerParameters(command=sys.executable, args=[str(Path(__file__).with_name("server.py"))])
MAX_TURNS = 4
Task = dict[str, str]
TASKS: list[Task] = [
    {"question": "How long is the pool open today?", "answer": "21"},
    {"question": "Can I visit the museum today?", "answer": "closed"},
]


@agl.rollout
async def receptionist(task: Task, llm: agl.LLM) -> float:
    """Ask the model, call the server's tools for it, and reward the right words in the last answer."""
    messages: list[Any] = [{"role": "user", "content": task["question"]}]
    async with (
        Client(SERVER) as server,
        AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "unused") as client,
    ):
        tools = [as_function(tool) for tool in (await server.list_tools()).tools]
        for _ in range(MAX_TURNS):
            reply = await client.chat.completions.create(
                model=llm.model, messages=messages, tools=tools, **llm.sampling_parameters
            )
            message = reply.choices[0].message
            if not message.tool_calls:
                return float(task["answer"] in (message.content or ""))
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls:
                result = await server.call_tool(call.function.name, json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": text_of(result)})
    return 0.0


def as_function(tool: Any) -> Any:
    """Return an MCP tool in the form in which models are offered functions."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def text_of(result: Any) -> str:
    """Return what a tool answered, as text."""
    return "\n".join(block.text for block in result.content if block.type == "text")


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
        with runner.run_context(agent=receptionist, store=store):
            for task in TASKS:
                rollout = await runner.step(task, resources={"llm": gateway.as_resource()})
                print(agl.find_final_reward(await store.query_spans(rollout.rollout_id)), task["question"])
    finally:
        await gateway.stop()


if __name__ == "__main__":
    asyncio.run(main(agl.InMemoryLightningStore()))
