"""Looking at an agent before it is trained: single rollouts, hooks around them, and a dry run of the machinery."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import agentlightning as agl

TASKS = ["level", "Noon", "a man, a plan, a canal"]


@agl.rollout
async def is_palindrome(task: str, prompt_template: agl.PromptTemplate) -> float:
    """Say whether the task reads the same backwards; it is confused by all that the template does not remove."""
    with agl.operation(name="clean") as cleaning:
        cleaning.set_input(task)
        text = "".join(letter for letter in task if letter not in prompt_template.template)
        cleaning.set_output(text)
    agl.emit_message(f"compare {text!r} with {text[::-1]!r}")
    if not text:
        raise ValueError("nothing is left of the task")
    return float(text == text[::-1])


RESOURCES: agl.NamedResources = {"prompt_template": agl.PromptTemplate(template=" ,", engine="f-string")}


class Tell(agl.Hook):
    """Prints what happens around each rollout."""

    async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: agl.Rollout) -> None:
        """Say what it is about."""
        print(f"{rollout.input!r} begins")

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: agl.Tracer, rollout: agl.Rollout) -> None:
        """Say how much was traced while the agent ran."""
        print(f"{rollout.input!r} left {[span.name.split('.')[-1] for span in tracer.get_last_trace()]}")

    async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: agl.Rollout, spans: Sequence[Any]) -> None:
        """Say what it was worth."""
        print(f"{rollout.input!r} got {agl.find_final_reward(spans)}")


async def step() -> None:
    """Run one task after the other in this process; errors of the agent are raised here, and breakpoints work."""
    store, runner = agl.InMemoryLightningStore(), agl.LitAgentRunner[str](agl.OtelTracer())
    with runner.run_context(agent=is_palindrome, store=store, hooks=[Tell()]):
        for task in TASKS:
            rollout = await runner.step(task, resources=RESOURCES, mode="train")
            print(rollout.status, agl.find_final_reward(await store.query_spans(rollout.rollout_id)))
        try:
            await runner.step(" , ", resources=RESOURCES)
        except ValueError as error:
            print("raised:", error)
    await store.close()


def dev() -> agl.TrainingResult:
    """Run queue, store and runners as in training, with `Baseline`, which logs each rollout and learns nothing."""
    trainer = agl.Trainer(n_runners=2, initial_resources=RESOURCES, hooks=Tell())
    return trainer.dev(is_palindrome, TASKS)


if __name__ == "__main__":
    if sys.argv[1:] == ["step"]:
        asyncio.run(step())
    elif sys.argv[1:] == ["dev"]:
        print(dev().rollouts)
    else:
        sys.exit(f"usage: python {Path(sys.argv[0]).name} step|dev")
