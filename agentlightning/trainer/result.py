"""What a run gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from agentlightning.algorithm import AlgorithmContext
from agentlightning.algorithm.context import read_best, read_metrics
from agentlightning.execution.loop_thread import run_to_result
from agentlightning.store import LightningStore
from agentlightning.types import NamedResources, RolloutStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        resources: The best resources that the algorithm named, else the newest of the store; None if there are none.
        score: How good the algorithm says the best are; None if it named none.
        metrics: The newest value of each metric.
        rollouts: How many rollouts of the store are in each status that any is in.
        seconds: Wall-clock time.
        run_dir: The run's folder, or None.
    """

    resources: NamedResources | None
    score: float | None
    metrics: Mapping[str, Any]
    rollouts: Mapping[str, int]
    seconds: float
    run_dir: Path | None


def summarize(
    store: LightningStore, context: AlgorithmContext | None, run_dir: Path | None, seconds: float
) -> TrainingResult:
    """Say how a run ended that took `seconds`.

    Args:
        store: The run's store.
        context: What the algorithm was given, if it ran in this process; else its folder tells what it reached.
        run_dir: The run's folder, or None.
        seconds: Wall-clock time.
    """
    resources, rollouts = run_to_result(_read(store))
    best = context.best if context else read_best(run_dir)
    return TrainingResult(
        resources=best.resources if best else resources,
        score=best.score if best else None,
        metrics=context.metrics if context else read_metrics(run_dir),
        rollouts=rollouts,
        seconds=seconds,
        run_dir=run_dir,
    )


def describe(component: object) -> str | None:
    """Return the dotted path of a component's class, or of the function that it was made of; None for None."""
    named: Any = getattr(component, "__wrapped__", type(component))
    return None if component is None else f"{named.__module__}.{named.__qualname__}"


async def _read(store: LightningStore) -> tuple[NamedResources | None, dict[str, int]]:
    """Return the newest resources, and how many rollouts are in each status that any is in."""
    newest = await store.get_latest_resources()
    counts = {
        status: (await store.query_rollouts(status_in=[status], limit=1)).total for status in get_args(RolloutStatus)
    }
    return newest.resources if newest else None, {status: count for status, count in counts.items() if count}
