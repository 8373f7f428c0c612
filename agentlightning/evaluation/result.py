"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from agentlightning.algorithm.paired import Interval, PairedDifference
from agentlightning.evaluation.usage import Prices, Usage, total


@dataclass(frozen=True, slots=True)
class TaskSample:
    """One run of a task.

    Attributes:
        rollout_id: Its rollout.
        reward: Its final reward; None if it failed or rewarded nothing, which counts 0.
        error: Why it failed, or None.
        usage: What its model calls took.
    """

    rollout_id: str
    reward: float | None
    error: str | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class EvaluatedSet:
    """How the agent did with one set of resources.

    Attributes:
        name: Of the set.
        samples: The runs of each task, in the order of the tasks.
        reward: Mean reward over tasks, with its interval.
    """

    name: str
    samples: Sequence[Sequence[TaskSample]]
    reward: Interval

    @property
    def rewards(self) -> list[float]:
        """Mean reward of each task."""
        return mean_rewards(self.samples)

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return sum(sample.error is not None for task in self.samples for sample in task)

    @property
    def unrewarded(self) -> int:
        """How many runs ended well and had no reward."""
        return sum(sample.reward is None and sample.error is None for task in self.samples for sample in task)

    @property
    def usage(self) -> Usage:
        """What all its model calls took."""
        return total(sample.usage for task in self.samples for sample in task)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What an evaluation found.

    Attributes:
        tasks: The tasks, as JSON values.
        split: SHA-256 of the tasks: evaluations with the same one had the same tasks.
        sets: How the agent did with each set of resources.
        difference: The second set's rewards minus the first's, task by task; None for a single set.
        prices: What tokens cost, or None.
        seconds: Wall-clock time.
        run_dir: The run's folder, or None.
    """

    tasks: Sequence[Any]
    split: str
    sets: Sequence[EvaluatedSet]
    difference: PairedDifference | None
    prices: Prices | None
    seconds: float
    run_dir: Path | None

    @property
    def verdict(self) -> str | None:
        """Whether the second set is `better`, `worse`, or `no evidence of a difference`; None for a single set."""
        return self.difference.verdict if self.difference else None

    def cost(self, usage: Usage) -> float | None:
        """Return what calls cost; None without prices, or when calls are in it whose tokens nobody counted."""
        return None if self.prices is None or usage.uncounted or not usage.calls else self.prices.cost(usage)

    def record(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "verdict": self.verdict,
            "difference": asdict(self.difference) if self.difference else None,
            "sets": {each.name: self._set_record(each) for each in self.sets},
            "split": {"tasks": len(self.tasks), "sha256": self.split},
            "prices": asdict(self.prices) if self.prices else None,
            "seconds": self.seconds,
            "tasks": self._task_records(),
        }

    def _set_record(self, each: EvaluatedSet) -> dict[str, Any]:
        counts = {"failed": each.failed, "unrewarded": each.unrewarded}
        return {"reward": asdict(each.reward)} | counts | self._usage_record(each.usage)

    def _task_records(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = [{"task": task, "sets": {}} for task in self.tasks]
        for each in self.sets:
            for record, reward, samples in zip(records, each.rewards, each.samples, strict=True):
                usage = self._usage_record(total(sample.usage for sample in samples))
                record["sets"][each.name] = {"reward": reward} | usage | {"samples": [*map(_sample_record, samples)]}
        return records

    def _usage_record(self, usage: Usage) -> dict[str, Any]:
        return asdict(usage) | {"cost": self.cost(usage)}


def _sample_record(sample: TaskSample) -> dict[str, Any]:
    return {"rollout_id": sample.rollout_id, "reward": sample.reward, "error": sample.error}


def mean_rewards(samples: Sequence[Sequence[TaskSample]]) -> list[float]:
    """Return the mean reward of each task's runs; those without a reward count 0."""
    return [fmean(sample.reward or 0.0 for sample in task) for task in samples]
