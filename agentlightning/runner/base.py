"""Runner: runs an agent on rollouts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from agentlightning.litagent import LitAgent
from agentlightning.types import Hook, NamedResources, ParallelWorkerBase, Rollout, RolloutMode

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

T_task = TypeVar("T_task")


class Runner(ParallelWorkerBase, Generic[T_task]):
    """Claims rollouts from a store and runs an agent on them."""

    def init(self, agent: LitAgent[T_task], **kwargs: Any) -> None:
        """Take the agent; once for all workers."""
        raise NotImplementedError

    def init_worker(self, worker_id: int, store: LightningStore, **kwargs: Any) -> None:
        """Take the store; once a worker."""
        raise NotImplementedError

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Refuse; a runner works by `iter` and `step`.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a runner has no run(): await iter() for the store's queue, or step() for one task")

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Give the store back."""
        raise NotImplementedError

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Give the agent back."""
        raise NotImplementedError

    @contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T_task],
        store: LightningStore,
        hooks: Sequence[Hook] | None = None,
        worker_id: int | None = None,
    ) -> Generator[Self]:
        """Set the runner up for one worker inside the block.

        Args:
            agent: The agent to run.
            store: Where rollouts come from and spans go.
            hooks: Callbacks around each rollout.
            worker_id: The number of the worker; 0 by default. Runners that work on one store at the same time need
                different numbers: what a worker does not say to hold returns to the queue.
        """
        worker = 0 if worker_id is None else worker_id
        self.init(agent=agent, hooks=hooks)
        try:
            self.init_worker(worker_id=worker, store=store)
            try:
                yield self
            finally:
                _logging_failure(self.teardown_worker, worker)
        finally:
            _logging_failure(self.teardown)

    async def iter(self, *, event: ExecutionEvent | None = None) -> None:
        """Run the rollouts of the store's queue until the event is set."""
        raise NotImplementedError

    async def step(
        self,
        input: T_task,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: ExecutionEvent | None = None,
    ) -> Rollout:
        """Run one task, past the queue."""
        raise NotImplementedError


def _logging_failure(teardown: Callable[..., None], *args: int) -> None:
    try:
        teardown(*args)
    except Exception:
        # A failure of cleaning up must neither hide the error of the block nor keep the rest from being cleaned up.
        logger.exception("Tearing the runner down failed")
