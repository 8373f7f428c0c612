"""Tasks run in groups, and what came back of each rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from agentlightning.adapter import Trajectories, calls_to_train, merge_calls
from agentlightning.algorithm.context import AlgorithmContext
from agentlightning.algorithm.rounds import Outcome
from agentlightning.types import LLMCall, Rollout, RolloutMode


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """One finished rollout as an algorithm sees it.

    Attributes:
        rollout: The rollout.
        reward: Its final reward; None when the rollout failed or rewarded nothing.
        error: Why it failed; None when it succeeded.
        trajectories: The training rows of its latest attempt, with their counters.
        truncated: Whether a call was sampled from less than the whole distribution (top_p, top_k).
    """

    rollout: Rollout
    reward: float | None
    error: str | None
    trajectories: Trajectories
    truncated: bool

    @property
    def turns(self) -> int:
        """How many model calls it made."""
        return self.trajectories.counters.calls

    @property
    def tokens(self) -> int:
        """How many tokens were sampled for it."""
        return sum(sum(row.mask) for row in self.trajectories.rows)


async def sample_groups(
    context: AlgorithmContext,
    tasks: Sequence[Any],
    *,
    key: str,
    group_size: int,
    mode: RolloutMode,
    resources_id: str,
    model: str,
    timeout: float,
    agent_match: str | None = None,
) -> list[list[RolloutSample]]:
    """Run every task `group_size` times and wait for all.

    Rollouts that have not finished in time are cancelled and count as failed; so are those in hand when the caller is
    cancelled.

    Args:
        context: What the run gives.
        tasks: What to run.
        key: Names this among the run's samplings, so that a resumed run finds what was done.
        group_size: Rollouts per task.
        mode: The mode of the rollouts.
        resources_id: The resources they run with.
        model: The model whose calls make training rows; an agent may call others, a judge for example.
        timeout: Seconds for all of them together.
        agent_match: Regular expression that finds the names of the agents whose calls these are; None takes them all.

    Returns:
        One list per task, in order, of its `group_size` samples.
    """
    sampled = context.rollouts(
        tasks, mode=mode, resources_id=resources_id, samples=group_size, key=key, timeout=timeout
    )
    return [[_sample(outcome, model, agent_match) for outcome in group] for group in await sampled.gather()]


def _sample(outcome: Outcome, model: str, agent_match: str | None) -> RolloutSample:
    calls = [call for call in calls_to_train(outcome.spans, agent_match) if call.model == model]
    truncated = any(map(_truncated, calls))
    return RolloutSample(outcome.rollout, outcome.reward, outcome.error, merge_calls(calls), truncated)


def _truncated(call: LLMCall) -> bool:
    top_p, top_k = call.sampling.get("top_p"), call.sampling.get("top_k")
    return top_p not in (None, 1) or top_k not in (None, 0, -1)


def describe_groups(groups: Sequence[Sequence[RolloutSample]], seconds: float) -> dict[str, Any]:
    """Return the figures of one round of sampling that took `seconds`."""
    samples = [sample for group in groups for sample in group]
    tokens = sum(sample.tokens for sample in samples)
    return {
        "reward": fmean(sample.reward or 0.0 for sample in samples),
        "rollouts": len(samples),
        "failed": sum(sample.error is not None for sample in samples),
        "turns": fmean(sample.turns for sample in samples),
        "rows": sum(len(sample.trajectories.rows) for sample in samples),
        "broken_prefixes": sum(sample.trajectories.counters.broken_prefixes for sample in samples),
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "rollouts_per_second": len(samples) / seconds,
        "sampling_seconds": seconds,
    }
