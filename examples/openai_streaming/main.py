"""An agent that streams: it reads a headline as it is written, and asks once more if it grows too long."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from openai import AsyncOpenAI

import agentlightning as agl

MAX_WORDS = 6
TASKS = [
    "The town council met for nine hours and agreed to repair one bench.",
    "A museum has found a painting, missing since 1961, behind its own boiler.",
]


@agl.rollout
async def headline_writer(task: str, llm: agl.LLM) -> float:
    """Ask for a headline, then for a shorter one; the reward is for brevity, less for a second try."""
    messages: list[Any] = [{"role": "user", "content": f"Write a headline for this.\n\n{task}"}]
    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "unused") as client:
        for reward in (1.0, 0.5):
            headline = await write(client, llm, messages)
            if len(headline.split()) <= MAX_WORDS:
                return reward
            messages += [
                {"role": "assistant", "content": headline},
                {"role": "user", "content": f"At most {MAX_WORDS} words, please."},
            ]
    return 0.0


async def write(client: AsyncOpenAI, llm: agl.LLM, messages: list[Any]) -> str:
    """Stream one answer and return it whole."""
    stream = await client.chat.completions.create(
        model=llm.model, messages=messages, stream=True, **llm.sampling_parameters
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


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
        runner = agl.LitAgentRunner[str](agl.OtelTracer())
        with runner.run_context(agent=headline_writer, store=store):
            for task in TASKS:
                rollout = await runner.step(task, resources={"llm": gateway.as_resource()})
                print(agl.find_final_reward(await store.query_spans(rollout.rollout_id)), task)
    finally:
        await gateway.stop()


if __name__ == "__main__":
    asyncio.run(main(agl.InMemoryLightningStore()))
