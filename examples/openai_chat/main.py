"""An agent that is one call of the OpenAI client, and a reward that is one comparison."""

from __future__ import annotations

import asyncio
import os

from openai import AsyncOpenAI

import agentlightning as agl

Task = dict[str, str]
TASKS: list[Task] = [
    {"country": "Portugal", "capital": "Lisbon"},
    {"country": "Kenya", "capital": "Nairobi"},
    {"country": "Australia", "capital": "Canberra"},
]


@agl.rollout
async def capital_quiz(task: Task, llm: agl.LLM) -> float:
    """Ask for a capital; only the bare name is worth a reward."""
    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "unused") as client:
        reply = await client.chat.completions.create(
            model=llm.model,
            messages=[
                {"role": "system", "content": "Answer with the name only."},
                {"role": "user", "content": f"What is the capital of {task['country']}?"},
            ],
            **llm.sampling_parameters,
        )
    return float((reply.choices[0].message.content or "").strip(" .") == task["capital"])


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
        with runner.run_context(agent=capital_quiz, store=store):
            for task in TASKS:
                rollout = await runner.step(task, resources={"llm": gateway.as_resource()})
                print(agl.find_final_reward(await store.query_spans(rollout.rollout_id)), task["country"])
    finally:
        await gateway.stop()


if __name__ == "__main__":
    asyncio.run(main(agl.InMemoryLightningStore()))
