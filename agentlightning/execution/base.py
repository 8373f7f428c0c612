"""Execution strategies: where the algorithm and the runners of a run live."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from agentlightning.execution.events import ExecutionEvent
from agentlightning.store import LightningStore


class AlgorithmBundle(Protocol):
    """The algorithm with all it needs; returns when the run is over."""

    async def __call__(self, store: LightningStore, event: ExecutionEvent) -> None:
        """Run the algorithm on `store`; `event` announces that the run ends early."""
        ...


@runtime_checkable
class Serves(Protocol):
    """What an algorithm's bundle has if it serves something, such as a gateway, that agents need."""

    def serving(self, store: LightningStore) -> AbstractContextManager[None]:
        """Serve it inside the block, which holds the lives of all runners."""
        ...


def serving(algorithm: AlgorithmBundle, store: LightningStore) -> AbstractContextManager[None]:
    """Return the block in which the runners of an algorithm live; it belongs to the algorithm's process."""
    return algorithm.serving(store) if isinstance(algorithm, Serves) else nullcontext()


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

    @property
    def leads(self) -> bool:
        """Whether the algorithm belongs to this process or one that it starts."""
        return True

    @property
    def supervises(self) -> bool:
        """Whether runners live in processes of their own, so that silence means that one was lost."""
        return False

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run everything to its end.

        Args:
            algorithm: Called once, inside `serving(algorithm, store)`.
            runner: Called once for each worker id from 0 to `n_runners - 1`.
            store: Shared by all.
        """
        raise NotImplementedError
