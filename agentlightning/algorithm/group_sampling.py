"""Tasks run in groups, and what came back of each rollout."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from agentlightning.adapter import Trajectories, calls_to_train, merge_calls
from agentlightning.emitter import find_final_reward
from agentlightning.store import LightningStore, is_finished
from agentlightning.types import EnqueueRolloutRequest, LLMCall, Rollout, RolloutMode

logger = logging.getLogger(__name__)


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
    store: LightningStore,
    tasks: Sequence[Any],
    *,
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
        store: Where the rollouts go.
        tasks: What to run.
        group_size: Rollouts per task.
        mode: The mode of the rollouts.
        resources_id: The resources they run with.
        model: The model whose calls make training rows; an agent may call others, a judge for example.
        timeout: Seconds for all of them together.
        agent_match: Regular expression that finds the names of the agents whose calls these are; None takes them all.

    Returns:
        One list per task, in order, of its `group_size` samples.
    """
    requests = [
        EnqueueRolloutRequest(input=task, mode=mode, resources_id=resources_id)
        for task in tasks
        for _ in range(group_size)
    ]
    ids = [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]
    try:
        finished = await store.wait_for_rollouts(rollout_ids=ids, timeout=timeout)
    except asyncio.CancelledError:
        await _cancel_unfinished(store, ids)
        raise
    if len(finished) < len(ids):
        logger.warning(
            "%d of %d rollouts had not finished after %g s and were cancelled; give the agent a timeout of its own",
            len(ids) - len(finished),
            len(ids),
            timeout,
        )
        await _cancel_unfinished(store, ids)
        finished = await store.wait_for_rollouts(rollout_ids=ids)
    samples = [await _sample(store, rollout, model, agent_match) for rollout in finished]
    return [samples[start : start + group_size] for start in range(0, len(samples), group_size)]


async def _sample(store: LightningStore, rollout: Rollout, model: str, agent_match: str | None) -> RolloutSample:
    spans = await store.query_spans(rollout.rollout_id, "latest")
    error = None if rollout.status == "succeeded" else await _error_of(store, rollout)
    reward = find_final_reward(spans.items) if error is None else None
    calls = [call for call in calls_to_train(spans.items, agent_match) if call.model == model]
    return RolloutSample(rollout, reward, error, merge_calls(calls), any(map(_truncated, calls)))


def _truncated(call: LLMCall) -> bool:
    top_p, top_k = call.sampling.get("top_p"), call.sampling.get("top_k")
    return top_p not in (None, 1) or top_k not in (None, 0, -1)


async def _error_of(store: LightningStore, rollout: Rollout) -> str:
    if rollout.status == "cancelled":
        return "it was cancelled before it ended"
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    metadata = (attempt.metadata if attempt else None) or {}
    error: dict[str, str] = metadata.get("error", {})
    return f"{error.get('type', rollout.status)}: {error.get('message', 'no reason was recorded')}"


async def _cancel_unfinished(store: LightningStore, rollout_ids: list[str]) -> None:
    rollouts = await store.query_rollouts(rollout_id_in=rollout_ids)
    unfinished = [rollout.rollout_id for rollout in rollouts if not is_finished(rollout)]
    await asyncio.gather(*(store.update_rollout(rollout_id, status="cancelled") for rollout_id in unfinished))


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
