"""Execution strategies: where the algorithm and the runners of a run live."""

from __future__ import annotations

from typing import Protocol

from agentlightning.execution.events import ExecutionEvent
from agentlightning.store import LightningStore


class AlgorithmBundle(Protocol):
    """The algorithm with all it needs; returns when the run is over."""

    async def __call__(self, store: LightningStore, event: ExecutionEvent) -> None:
        """Run the algorithm on `store`; `event` announces that the run ends early."""
        ...


class RunnerBundle(Protocol):
    """One runner with all it needs; returns when `event` is set or its quota is used up."""

    async def __call__(self, store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        """Run runner `worker_id` on `store` until `event` is set."""
        ...


class ExecutionStrategy:
    """Places one algorithm and its runners, and ends them together.

    When the algorithm ends, the runners are told to stop. When a runner fails, the algorithm is cancelled and the
    runner's error is raised. `KeyboardInterrupt` reaches the caller after everything was stopped.
    """

    n_runners: int = 1

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run everything to its end.

        Args:
            algorithm: Called once.
            runner: Called once for each worker id from 0 to `n_runners - 1`.
            store: Shared by all.
        """
        raise NotImplementedError
