"""A trainer without runners of its own: whoever speaks HTTP does the work, such as `runner.mjs`."""

from __future__ import annotations

import os
import sys
from typing import Any

import agentlightning as agl

TASKS = [
    {"question": "What is 17 + 25? Answer with the number alone.", "answer": "42"},
    {"question": "What is 17 - 25? Answer with the number alone.", "answer": "-8"},
]


class Elsewhere(agl.LitAgent[Any]):
    """Stands for the agent, which lives in `runner.mjs`."""


@agl.algo
async def measure(
    store: agl.LightningStore,
    llm_proxy: agl.LLMProxy,
    adapter: agl.TraceAdapter[list[agl.Triplet]],
    train_dataset: agl.Dataset[dict[str, str]],
) -> None:
    """Queue every task, and print what training would get of each."""
    resources = await store.add_resources({"llm": llm_proxy.as_resource()})
    tasks = [train_dataset[index] for index in range(len(train_dataset))]
    queued = [await store.enqueue_rollout(task, "train", resources.resources_id) for task in tasks]
    await store.wait_for_rollouts(rollout_ids=[each.rollout_id for each in queued], timeout=300)
    for task, each in zip(tasks, queued, strict=True):
        for triplet in adapter.adapt(await store.query_spans(each.rollout_id)):
            print(triplet.reward, len(triplet.response["token_ids"]), "tokens:", task["question"], flush=True)


def main() -> None:
    """Serve the store at port 4747, or `AGL_SERVER_PORT`, until the algorithm has ended."""
    model = {
        "model": os.environ["OPENAI_MODEL"],
        "api_base": os.environ["OPENAI_BASE_URL"],
        "api_key": os.environ.get("OPENAI_API_KEY"),
    }
    proxy = agl.LLMProxy(model_list=[{"model_name": "policy", "litellm_params": model}])
    agl.Trainer(algorithm=measure, llm_proxy=proxy, strategy="cs", n_runners=0).fit(Elsewhere(), TASKS)


if __name__ == "__main__":
    if not (os.environ.get("OPENAI_MODEL") and os.environ.get("OPENAI_BASE_URL")):
        sys.exit("set OPENAI_MODEL and OPENAI_BASE_URL, as README.md says")
    main()
