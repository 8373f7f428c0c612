"""Running an agent with each set of resources on the same tasks."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from agentlightning.algorithm import Algorithm, Outcome
from agentlightning.algorithm.paired import mean_intervals, paired_difference
from agentlightning.errors import AgentError, ConfigurationError
from agentlightning.evaluation.result import EvaluatedSet, EvaluationResult, TaskSample, mean_rewards
from agentlightning.evaluation.usage import Prices, usage_of
from agentlightning.litagent import LitAgent
from agentlightning.trainer import Trainer
from agentlightning.types import Dataset, NamedResources
from agentlightning.types.task_input import normalize_task_input

Progress: TypeAlias = Callable[[int, int], object]
"""Called with how many rollouts have ended, and how many there are."""
Samples: TypeAlias = list[list[TaskSample]]


def evaluate(
    agent: LitAgent[Any],
    tasks: Dataset[Any],
    resources: Mapping[str, NamedResources],
    *,
    samples: int = 1,
    n_runners: int = 4,
    timeout: float = 3600.0,
    prices: Prices | None = None,
    run_dir: str | Path | None = None,
    on_progress: Progress | None = None,
) -> EvaluationResult:
    """Run every task with each set of resources, and say whether the second set is better than the first.

    Nothing is learned, and the tasks do not change while it runs. A run that fails or has no reward counts 0.

    Args:
        agent: What to run.
        tasks: What to run it on: at least two tasks.
        resources: One set of resources, or the two to compare, by name.
        samples: How often each task is run with each set. Tasks stay what is counted: more runs of them take noise
            from each, and do not make more of them.
        n_runners: How many rollouts run at a time.
        timeout: Seconds for all rollouts of one set; those that have not ended then count as failed.
        prices: What tokens cost; None leaves money out.
        run_dir: The run's folder, as of `Trainer`; None keeps nothing.
        on_progress: Called as rollouts end.

    Raises:
        ConfigurationError: There are too few tasks, no set of resources or more than two, a number is out of range, or
            the folder holds a run already.
        InvalidValue: A task has no JSON form.
        AgentError: No rollout had a reward.
        KeyboardInterrupt: Ctrl+C, after everything was stopped.
    """
    frozen = [normalize_task_input(tasks[index], f"tasks[{index}]") for index in range(len(tasks))]
    _check(frozen, resources, samples, n_runners, timeout)
    started = time.monotonic()
    work = Evaluating(resources, samples, timeout, on_progress)
    Trainer(algorithm=work, n_runners=n_runners, run_dir=run_dir).fit(agent, val_dataset=frozen)
    _check_rewards(work.found)
    rewards = {name: mean_rewards(found) for name, found in work.found.items()}
    intervals = mean_intervals([*rewards.values()])
    return EvaluationResult(
        tasks=frozen,
        split=hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest(),
        sets=[
            EvaluatedSet(name, work.found[name], interval) for name, interval in zip(rewards, intervals, strict=True)
        ],
        difference=paired_difference(*rewards.values()) if len(rewards) == 2 else None,
        prices=prices,
        seconds=time.monotonic() - started,
        run_dir=Path(run_dir) if run_dir is not None else None,
    )


class Evaluating(Algorithm):
    """Runs all tasks with one set of resources after the other."""

    def __init__(
        self, resources: Mapping[str, NamedResources], samples: int, timeout: float, on_progress: Progress | None
    ) -> None:
        self.resources = resources
        self.samples = samples
        self.timeout = timeout
        self.on_progress = on_progress
        self.found: dict[str, Samples] = {}

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Run the tasks of `val_dataset`."""
        tasks = [val_dataset[index] for index in range(len(val_dataset))] if val_dataset is not None else []
        for name, resources in self.resources.items():
            self.found[name] = await self._run_set(name, tasks, await self.get_context().publish(resources))

    async def _run_set(self, name: str, tasks: Sequence[Any], resources_id: str) -> Samples:
        found: dict[tuple[int, int], TaskSample] = {}
        count = len(tasks) * self.samples
        async for outcome in self.get_context().rollouts(
            tasks, mode="test", resources_id=resources_id, samples=self.samples, key=name, timeout=self.timeout
        ):
            found[outcome.task, outcome.sample] = _sample(outcome)
            if self.on_progress is not None:
                self.on_progress(len(self.found) * count + len(found), len(self.resources) * count)
        return [[found[task, sample] for sample in range(self.samples)] for task in range(len(tasks))]


def _sample(outcome: Outcome) -> TaskSample:
    return TaskSample(outcome.rollout.rollout_id, outcome.reward, outcome.error, usage_of(outcome.spans))


def _check(
    tasks: Sequence[Any], resources: Mapping[str, NamedResources], samples: int, n_runners: int, timeout: float
) -> None:
    if len(tasks) < 2:
        raise ConfigurationError(f"an evaluation needs at least two tasks, not {len(tasks)}")
    if len(resources) not in (1, 2):
        raise ConfigurationError(
            f"one set of resources is measured and two are compared, but there are {len(resources)}: evaluate more of "
            "them two by two"
        )
    if samples < 1 or n_runners < 1 or not timeout > 0:
        raise ConfigurationError(
            f"samples={samples} and n_runners={n_runners} must be at least 1, timeout={timeout} above 0"
        )


def _check_rewards(found: Mapping[str, Samples]) -> None:
    samples = [sample for of_set in found.values() for task in of_set for sample in task]
    if any(sample.reward is not None for sample in samples):
        return
    error = next((sample.error for sample in samples if sample.error), None)
    reason = f"the first that failed says {error}" if error else "return one from the agent, or emit one"
    raise AgentError(f"none of {len(samples)} rollouts had a reward: {reason}")
