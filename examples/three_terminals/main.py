"""One program for two of three terminals: the algorithm in one, runners in the other, and `agl store` between them."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import agentlightning as agl

STORE = os.environ.get("STORE", "http://127.0.0.1:4747")
STOP_WORDS = [["the"], ["the", "of", "a"], ["the", "of", "a", "and", "in"]]
TEXTS = ["the owl and the cat in a boat", "a tale of two cities", "in the heat of the night"]


@agl.rollout
async def shorten(task: str, prompt_template: agl.PromptTemplate) -> float:
    """Leave out the words that the template lists; shorter is better. (A model could be asked here.)"""
    kept = [word for word in task.split() if word not in prompt_template.template.split()]
    agl.emit_message(" ".join(kept))
    return 1.0 - len(kept) / len(task.split())


async def algorithm(store: agl.LightningStore) -> None:
    """Try one list of words after the other; whoever serves the queue does the work."""
    for words in STOP_WORDS:
        resources: agl.NamedResources = {
            "prompt_template": agl.PromptTemplate(template=" ".join(words), engine="f-string")
        }
        resources_id = (await store.add_resources(resources)).resources_id
        requests = [agl.EnqueueRolloutRequest(input=text, mode="train", resources_id=resources_id) for text in TEXTS]
        queued = await store.enqueue_many_rollouts(requests)
        finished = await store.wait_for_rollouts(rollout_ids=[each.rollout_id for each in queued], timeout=300)
        spans = [await store.query_spans(each.rollout_id, "latest") for each in finished]
        score = sum(agl.find_final_reward(each) or 0.0 for each in spans) / len(TEXTS)
        print(f"{score:.2f} without {', '.join(words)}", flush=True)


async def runner(store: agl.LightningStore) -> None:
    """Serve the store's queue until Ctrl+C."""
    worker = agl.LitAgentRunner[str](agl.OtelTracer())
    with worker.run_context(agent=shorten, store=store, worker_id=os.getpid()):
        await worker.iter()


async def main(part: str) -> None:
    """Play one part, as a client of the store."""
    async with agl.LightningStoreClient(STORE) as store:
        await (algorithm if part == "algorithm" else runner)(store)


if __name__ == "__main__":
    if sys.argv[1:] not in (["algorithm"], ["runner"]):
        sys.exit(f"usage: python {Path(sys.argv[0]).name} algorithm|runner")
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
