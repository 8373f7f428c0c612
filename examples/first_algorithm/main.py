"""An algorithm by hand: a loop over prompts, with a store, a runner and an adapter, and no trainer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from openai import AsyncOpenAI

import agentlightning as agl

Task = dict[str, str]
TASKS: list[Task] = [
    {"thing": "a ripe banana", "colour": "yellow"},
    {"thing": "fresh snow", "colour": "white"},
    {"thing": "a raven", "colour": "black"},
]
PROMPTS = ["What colour is {thing}?", "The colour of {thing}, as one word in lower case:"]


@agl.rollout
async def name_the_colour(task: Task, prompt_template: agl.PromptTemplate) -> float:
    """Ask the model that the environment names; only the bare word is worth a reward."""
    async with AsyncOpenAI() as client:
        prompt = prompt_template.format(thing=task["thing"])
        reply = await client.chat.completions.create(
            model=os.environ["OPENAI_MODEL"], messages=[{"role": "user", "content": prompt}]
        )
    return float(reply.choices[0].message.content == task["colour"])


async def find_best_prompt(store: agl.LightningStore, prompts: Sequence[str], tasks: Sequence[Task]) -> str:
    """Publish each prompt, have all tasks run with it, and return the one with the highest mean reward."""
    adapter, scores = agl.TraceToMessages(), dict[str, float]()
    for prompt in prompts:
        template = agl.PromptTemplate(template=prompt, engine="f-string")
        resources = await store.add_resources({"prompt_template": template})
        queued = [await store.enqueue_rollout(task, "train", resources.resources_id) for task in tasks]
        finished = await store.wait_for_rollouts(rollout_ids=[each.rollout_id for each in queued], timeout=300)
        spans = [await store.query_spans(each.rollout_id, "latest") for each in finished]
        scores[prompt] = sum(agl.find_final_reward(each) or 0.0 for each in spans) / len(tasks)
        print(f"{scores[prompt]:.2f} {prompt}")
        for conversation in adapter.adapt(spans[0]):
            print(*(f"     {message['role']}: {message['content']}" for message in conversation["messages"]), sep="\n")
    return max(scores, key=scores.__getitem__)


async def main(store: agl.LightningStore) -> str:
    """Let a runner work beside the algorithm, on the same event loop, for as long as that needs it."""
    runner, over = agl.LitAgentRunner[Task](agl.OtelTracer()), agl.ThreadingEvent()
    with runner.run_context(agent=name_the_colour, store=store):
        working = asyncio.create_task(runner.iter(event=over))
        try:
            return await find_best_prompt(store, PROMPTS, TASKS)
        finally:
            over.set()
            await working


if __name__ == "__main__":
    print("best:", asyncio.run(main(agl.InMemoryLightningStore())))
