"""How good prompts are: rollouts with them, each of which is run once and for all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agentlightning.algorithm.context import AlgorithmContext
from agentlightning.algorithm.prompt_search.journal import Journal, digest
from agentlightning.types import NamedResources, PromptTemplate, RolloutMode, Span
from agentlightning.types.task_input import normalize_task_input


@dataclass(frozen=True, slots=True)
class Scored:
    """How one task went with a prompt.

    Attributes:
        task: Number of the task in its dataset.
        rollout_id: The rollout.
        reward: Its final reward; None if it failed or rewarded nothing.
        error: Why it failed; None if it succeeded.
    """

    task: int
    rollout_id: str
    reward: float | None
    error: str | None

    def value(self, worst: float) -> float:
        """Return the reward, or what stands for it where there is none.

        Args:
            worst: The lowest reward that was seen, and at most 0: with penalties, failing shall be no way to do better.
        """
        return worst if self.reward is None else self.reward


class PromptEvaluator:
    """Runs tasks with prompts, in whole sets of resources: what is beside the prompts stays.

    What succeeded in an evaluation that ended is written down, and read by a resumed run; of one that did not end, it
    is found in the store. What failed is run again by a resumed run, for the cause may be mended. An evaluation that is
    cancelled cancels the rollouts that it waits for.

    Args:
        context: What the run gives.
        journal: Where evaluations are written down.
        resources: The resources to begin with.
        timeout: Seconds that the rollouts of an evaluation have together, times the evaluations that run when its
            rollouts are queued, itself among them; late ones are cancelled and count as failed.
        at_once: How many evaluations run at a time; further ones wait.

    Attributes:
        rollouts: How many rollouts it ran, without those that an earlier process had run.
        reused: How many an earlier process had run.
    """

    def __init__(
        self,
        context: AlgorithmContext,
        journal: Journal,
        resources: NamedResources,
        *,
        timeout: float,
        at_once: int,
    ) -> None:
        self._context = context
        self._journal = journal
        self._resources = dict(resources)
        self._timeout = timeout
        self._free = asyncio.Semaphore(at_once)
        self._running = 0
        self._published: dict[str, str] = {}
        self.rollouts = 0
        self.reused = 0

    async def evaluate(
        self, key: str, prompts: Mapping[str, PromptTemplate], tasks: Sequence[tuple[int, Any]], mode: RolloutMode
    ) -> list[Scored]:
        """Run every task once; returns what came of each, in the order of the tasks.

        Args:
            key: Names the evaluation within the run.
            prompts: The prompts that take the place of those to begin with, by the name of the resource.
            tasks: What to run, each with its number in its dataset.
            mode: The mode of the rollouts.

        Raises:
            InvalidValue: A task has no JSON form.
        """
        asked = {
            "prompts": {name: prompt.model_dump(mode="json") for name, prompt in prompts.items()},
            "tasks": [(number, normalize_task_input(task, f"tasks[{number}]")) for number, task in tasks],
            "mode": mode,
        }

        answer = self._journal.find("evaluation", key, asked)
        known = {each["task"]: Scored(**each) for each in answer["scored"]} if answer else {}
        self.reused += len(known)
        left = {**asked, "tasks": [task for task in asked["tasks"] if task[0] not in known]}
        if left["tasks"]:
            async with self._free:
                self._running += 1
                try:
                    scored = await self._run(f"{key}-{digest(left)[:12]}", left)
                finally:
                    self._running -= 1
            if self._context.event is not None and self._context.event.is_set():
                raise asyncio.CancelledError  # what the runners were stopped in has failed, and says nothing
            known |= {each.task: each for each in scored}
            succeeded = [asdict(each) for each in known.values() if each.error is None]
            self._journal.write("evaluation", key, asked, {"scored": succeeded})
        return [known[number] for number, _ in tasks]

    async def spans(self, scored: Scored) -> Sequence[Span]:
        """Return the spans of a rollout's latest attempt."""
        return (await self._context.store.query_spans(scored.rollout_id, "latest")).items

    def with_prompts(self, prompts: Mapping[str, PromptTemplate]) -> NamedResources:
        """Return the whole set of resources that has these prompts."""
        return {**self._resources, **prompts}

    async def _run(self, key: str, asked: Mapping[str, Any]) -> list[Scored]:
        numbers = [number for number, _ in asked["tasks"]]
        sampled = self._context.rollouts(
            [task for _, task in asked["tasks"]],
            mode=asked["mode"],
            resources_id=await self._publish(asked["prompts"]),
            key=key,
            timeout=self._timeout * self._running,
        )
        sampled.on_end = None  # else the failures of a round that ended would count in a resumed run
        found = await sampled.gather()
        self.reused += sampled.counts.reused
        self.rollouts += len(numbers) - sampled.counts.reused
        return [
            Scored(numbers[outcome.task], outcome.rollout.rollout_id, outcome.reward, outcome.error)
            for outcomes in found
            for outcome in outcomes
        ]

    async def _publish(self, prompts: Mapping[str, Any]) -> str:
        """Store the resources with these prompts, once; returns their id."""
        name = digest(prompts)
        if name not in self._published:
            templates = {each: PromptTemplate.model_validate(prompt) for each, prompt in prompts.items()}
            self._published[name] = await self._context.publish(self.with_prompts(templates))
        return self._published[name]
