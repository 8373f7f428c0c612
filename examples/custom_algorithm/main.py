"""An algorithm as one function, with a gateway: it runs each prompt behind the proxy and looks at the exact tokens."""

from __future__ import annotations

import os
import sys
from typing import Any

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
async def name_the_colour(task: Task, llm: agl.LLM, prompt_template: agl.PromptTemplate) -> float:
    """Ask the model at the address that the algorithm publishes; only the bare word is worth a reward."""
    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "unused") as client:
        prompt = prompt_template.format(thing=task["thing"])
        reply = await client.chat.completions.create(
            model=llm.model, messages=[{"role": "user", "content": prompt}], **llm.sampling_parameters
        )
    return float(reply.choices[0].message.content == task["colour"])


@agl.algo
async def pick_prompt(
    store: agl.LightningStore,
    llm_proxy: agl.LLMProxy,
    adapter: agl.TraceAdapter[list[agl.Triplet]],
    context: agl.AlgorithmContext,
    train_dataset: agl.Dataset[Task],
) -> None:
    """Run all tasks with each prompt; what is asked for by name is what the trainer has."""
    tasks = [train_dataset[index] for index in range(len(train_dataset))]
    for step, prompt in enumerate(PROMPTS):
        template = agl.PromptTemplate(template=prompt, engine="f-string")
        resources: agl.NamedResources = {"llm": llm_proxy.as_resource(), "prompt_template": template}
        resources_id = (await store.add_resources(resources)).resources_id
        queued = [await store.enqueue_rollout(task, "train", resources_id) for task in tasks]
        await store.wait_for_rollouts(rollout_ids=[each.rollout_id for each in queued], timeout=300)
        triplets: list[agl.Triplet] = []
        for each in queued:
            triplets += adapter.adapt(await store.query_spans(each.rollout_id, "latest"))
        score = sum(triplet.reward or 0.0 for triplet in triplets) / len(tasks)
        sampled = sum(len(triplet.response["token_ids"]) for triplet in triplets)
        context.log({"step": step, "score": score, "sampled_tokens": sampled})
        context.keep_best(score, {"prompt_template": template})


def main(**settings: Any) -> agl.TrainingResult:
    """Let the trainer put the parts together; `settings` are more of its arguments."""
    model = {
        "model": os.environ["OPENAI_MODEL"],
        "api_base": os.environ["OPENAI_BASE_URL"],
        "api_key": os.environ.get("OPENAI_API_KEY"),
    }
    proxy = agl.LLMProxy(model_list=[{"model_name": "policy", "litellm_params": model}])
    trainer = agl.Trainer(algorithm=pick_prompt, llm_proxy=proxy, n_runners=2, **settings)
    return trainer.fit(name_the_colour, TASKS)


if __name__ == "__main__":
    if not (os.environ.get("OPENAI_MODEL") and os.environ.get("OPENAI_BASE_URL")):
        sys.exit("set OPENAI_MODEL and OPENAI_BASE_URL, as README.md says")
    result = main(on_metrics=print)
    print("best:", result.score, result.resources)
