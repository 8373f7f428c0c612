"""How good the present policy is on a fixed set of tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Final

from agentlightning.algorithm.context import AlgorithmContext
from agentlightning.algorithm.group_sampling import sample_groups
from agentlightning.algorithm.paired import paired_difference

_FEWEST_PAIRS: Final = 2


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the policy did.

    Attributes:
        version: Weights version that was evaluated.
        temperature: Sampling temperature; 0 is greedy.
        rewards: Reward of each task, in order; a failed or unrewarded rollout counts 0.
        failed: Rollouts that failed.
        turns: Mean number of model calls per task.
        tokens: Sampled tokens in all.
        seconds: Wall-clock time.
    """

    version: int
    temperature: float
    rewards: list[float]
    failed: int
    turns: float
    tokens: int
    seconds: float

    @property
    def mean_reward(self) -> float:
        """Mean reward; the success rate where rewards are 0 or 1."""
        return fmean(self.rewards)

    def record(self, before: Evaluation | None = None) -> dict[str, Any]:
        """Return the evaluation as a record of the run's metrics.

        Args:
            before: An earlier evaluation of the same tasks: the record says what was gained since, with its 95 %
                interval, and whether that is evidence of a difference; None says nothing of it.
        """
        fields = asdict(self)
        del fields["rewards"]
        return (
            {"kind": "evaluation", "reward": self.mean_reward, "rollouts": len(self.rewards)}
            | fields
            | (_gain(before.rewards, self.rewards) if before else {})
        )


def _gain(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    if len(after) < _FEWEST_PAIRS:
        return {}
    gain = paired_difference(before, after)
    return {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high, "verdict": gain.verdict}


async def evaluate_policy(
    context: AlgorithmContext,
    tasks: Sequence[Any],
    *,
    version: int,
    temperature: float,
    resources_id: str,
    model: str,
    timeout: float,
) -> Evaluation:
    """Run every task once, in mode `val`.

    Args:
        context: What the run gives.
        tasks: What to run.
        version: Version of the weights that `resources_id` leads to.
        temperature: The temperature that `resources_id` asks for.
        resources_id: The resources to run with.
        model: The model that is evaluated; calls of others are not counted.
        timeout: Seconds for all tasks together.
    """
    started = time.monotonic()
    groups = await sample_groups(
        context,
        tasks,
        key=f"evaluation-{version}-{temperature:g}",
        group_size=1,
        mode="val",
        resources_id=resources_id,
        model=model,
        timeout=timeout,
    )
    samples = [group[0] for group in groups]
    return Evaluation(
        version=version,
        temperature=temperature,
        rewards=[sample.reward or 0.0 for sample in samples],
        failed=sum(sample.error is not None for sample in samples),
        turns=fmean(sample.turns for sample in samples),
        tokens=sum(sample.tokens for sample in samples),
        seconds=time.monotonic() - started,
    )
