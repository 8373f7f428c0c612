"""Programs that know nothing of agentlightning as agents: a shell script, which judges itself, and a Node program."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import agentlightning as agl

HERE = Path(__file__).parent
TASKS: list[dict[str, str]] = [
    {"question": "What is 17 + 25?", "answer": "42"},
    {"question": "What is 6 * 7?", "answer": "42"},
    {"question": "What is 17 - 25?", "answer": "-8"},
]


def grade(task: dict[str, str], run: agl.CommandRun) -> float:
    """Compare the last line that the program wrote with the answer."""
    return float(run.stdout.strip().split("\n")[-1] == task["answer"])


shell = agl.CommandAgent(["sh", HERE / "agent.sh"], timeout=60)
node = agl.CommandAgent(["node", HERE / "agent.mjs"], grader=grade, timeout=60)
AGENTS = {"shell": shell, "node": node}


async def evaluate(agent: agl.CommandAgent, model: dict[str, Any], store: agl.LightningStore) -> list[float | None]:
    """Run all tasks behind a gateway, which records each model call of the program, and return their rewards."""
    gateway = agl.LLMProxy(model_list=[{"model_name": "policy", "litellm_params": model}], store=store)
    await gateway.start()
    try:
        resources = await store.add_resources({"llm": gateway.as_resource(sampling_parameters={"temperature": 1.0})})
        rollouts = [await store.enqueue_rollout(task, "train", resources.resources_id) for task in TASKS]
        runner = agl.LitAgentRunner(agl.OtelTracer(), max_rollouts=len(TASKS), max_concurrency=len(TASKS))
        with runner.run_context(agent=agent, store=store):
            await runner.iter()
    finally:
        await gateway.stop()
    return [agl.find_final_reward(await store.query_spans(rollout.rollout_id)) for rollout in rollouts]


async def main(name: str) -> None:
    """Evaluate one of the agents with the model server that the environment names."""
    model = {
        "model": os.environ["OPENAI_MODEL"],
        "api_base": os.environ["OPENAI_BASE_URL"],
        "api_key": os.environ.get("OPENAI_API_KEY"),
    }
    store = agl.InMemoryLightningStore()
    rewards = await evaluate(AGENTS[name], model, store)
    for task, reward in zip(TASKS, rewards, strict=True):
        print(reward, task["question"])
    await store.close()


if __name__ == "__main__":
    if sys.argv[1:] not in ([name] for name in AGENTS):
        sys.exit(f"usage: python {sys.argv[0]} {'|'.join(AGENTS)}")
    asyncio.run(main(sys.argv[1]))
