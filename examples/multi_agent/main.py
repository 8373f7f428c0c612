"""An author and an editor work on a slogan together; only the author is trained."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from openai import AsyncOpenAI

import agentlightning as agl

MAX_WORDS = 5
TRAINED = "author"
Task = dict[str, str]
TASKS: list[Task] = [{"product": "umbrella"}, {"product": "bicycle"}]


@agl.rollout
async def slogan(task: Task, llm: agl.LLM) -> float:
    """Author, editor, author again; a short slogan that names the product is worth 1."""
    drafts: list[Any] = [
        {"role": "system", "content": "You write slogans. Answer with the slogan only."},
        {"role": "user", "content": f"A slogan for this product: {task['product']}"},
    ]
    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "unused") as client:
        first = await ask("author", client, llm, drafts)
        objection = await ask(
            "editor",
            client,
            llm,
            [
                {"role": "system", "content": f"A slogan has at most {MAX_WORDS} words. Say what to edit."},
                {"role": "user", "content": first},
            ],
        )
        drafts += [{"role": "assistant", "content": first}, {"role": "user", "content": objection}]
        final = await ask("author", client, llm, drafts)
    return float(task["product"] in final.lower() and len(final.split()) <= MAX_WORDS)


async def ask(agent: str, client: AsyncOpenAI, llm: agl.LLM, messages: list[Any]) -> str:
    """Ask the model, as the work of one of the agents."""
    with agl.operation(name=agent, type="agent"):
        reply = await client.chat.completions.create(model=llm.model, messages=messages, **llm.sampling_parameters)
    return reply.choices[0].message.content or ""


async def main(store: agl.LightningStore) -> None:
    """Run the tasks with the model server that the environment names, and print what the author would learn from."""
    model = {
        "model": os.environ["OPENAI_MODEL"],
        "api_base": os.environ["OPENAI_BASE_URL"],
        "api_key": os.environ.get("OPENAI_API_KEY"),
    }
    gateway = agl.LLMProxy(model_list=[{"model_name": "policy", "litellm_params": model}], store=store)
    adapter = agl.TracerTraceToTriplet(agent_match=TRAINED)
    await gateway.start()
    try:
        runner = agl.LitAgentRunner[Task](agl.OtelTracer())
        with runner.run_context(agent=slogan, store=store):
            for task in TASKS:
                rollout = await runner.step(task, resources={"llm": gateway.as_resource()})
                for triplet in adapter(await store.query_spans(rollout.rollout_id)):
                    written = triplet.response["raw_content"][0]["content"]
                    print(triplet.reward, triplet.metadata["agent_name"], written)
    finally:
        await gateway.stop()


if __name__ == "__main__":
    asyncio.run(main(agl.InMemoryLightningStore()))
