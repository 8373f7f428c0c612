"""The same with a trainer: AGL_CURRENT_ROLE says which part this terminal plays; the algorithm's serves the store."""

from __future__ import annotations

from main import TEXTS, shorten

import agentlightning as agl


@agl.algo
async def measure(context: agl.AlgorithmContext, train_dataset: agl.Dataset[str]) -> None:
    """Score one list of words."""
    prompt = agl.PromptTemplate(template="the of a and in", engine="f-string")
    resources_id = await context.publish({"prompt_template": prompt})
    tasks = [train_dataset[index] for index in range(len(train_dataset))]
    rewards = [outcome.reward or 0.0 async for outcome in context.rollouts(tasks, resources_id=resources_id)]
    print(f"{sum(rewards) / len(rewards):.2f} with {len(rewards)} rollouts", flush=True)


if __name__ == "__main__":
    agl.Trainer(algorithm=measure, strategy="cs", n_runners=1).fit(shorten, TEXTS)
