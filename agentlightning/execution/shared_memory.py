"""Everything in one process: the algorithm in one thread, all runners on one event loop in another."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from agentlightning.errors import ConfigurationError
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle, serving
from agentlightning.execution.events import ExecutionEvent, ThreadingEvent
from agentlightning.execution.lifecycle import Lifecycle
from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """Runs the algorithm and `n_runners` runners in this process on one store object.

    Args:
        n_runners: How many runners; they share one event loop, so agents should be async.
        main_thread: Who gets the calling thread: the algorithm, or (for debugging an agent) the only runner.
        join_timeout: Seconds to wait for the other thread after it was cancelled.
        graceful_delay: Seconds that the runners get for the rollouts in hand when the algorithm has ended.
        poll_interval: Accepted for v0.3; nothing polls.
        managed_store: Accepted for v0.3; the store is safe to share as it is.

    Raises:
        ConfigurationError: `n_runners` is below 1, or above 1 with a runner on the main thread.
    """

    def __init__(
        self,
        n_runners: int = 1,
        main_thread: Literal["algorithm", "runner"] = "algorithm",
        join_timeout: float = 15.0,
        graceful_delay: float = 5.0,
        poll_interval: float = 0.05,
        managed_store: bool | None = None,
    ) -> None:
        if n_runners < 1:
            raise ConfigurationError(f"n_runners must be at least 1, not {n_runners}")
        if main_thread == "runner" and n_runners != 1:
            raise ConfigurationError(f"main_thread='runner' holds one runner; set n_runners=1, not {n_runners}")
        self.n_runners = n_runners
        self.main_thread: Literal["algorithm", "runner"] = main_thread
        self.join_timeout = join_timeout
        self.graceful_delay = graceful_delay

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run everything to its end; see `ExecutionStrategy.execute`."""
        event = ThreadingEvent()
        with serving(algorithm, store):
            Lifecycle(self.main_thread, self.graceful_delay, self.join_timeout).run(
                lambda: algorithm(store, event), lambda: _run_runners(runner, self.n_runners, store, event), event
            )


async def _run_runners(runner: RunnerBundle, count: int, store: LightningStore, event: ExecutionEvent) -> None:
    """Run all runners until they end; the first failure cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for worker_id in range(count):
                group.create_task(runner(store, worker_id, event), name=f"runner-{worker_id}")
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    if not event.is_set():
        logger.warning(
            "All %d runners have used up their quota while the algorithm runs: what is queued now waits for others. "
            "Raise max_rollouts if there are none.",
            count,
        )
