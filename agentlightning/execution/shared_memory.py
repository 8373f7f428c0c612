"""Everything in one process: the algorithm in one thread, all runners on one event loop in another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from agentlightning.errors import ConfigurationError, ExecutionError
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
from agentlightning.execution.events import ExecutionEvent, ThreadingEvent
from agentlightning.execution.loop_thread import Cancellable, LoopThread, run_blocking
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

        async def run_runners() -> None:
            await _run_runners(runner, self.n_runners, store, event)

        async def run_algorithm() -> None:
            await _run_algorithm(algorithm(store, event), event, end_runners)

        async def end_runners() -> None:
            if self.main_thread == "algorithm":  # else they have ended: theirs is the thread that is cancelled first
                side.cancel()
                await asyncio.to_thread(side.join, self.join_timeout)

        def end_main() -> None:
            event.set()
            main.cancel()

        runs_here, runs_aside = run_algorithm, run_runners
        if self.main_thread == "runner":
            runs_here, runs_aside = run_runners, run_algorithm
        main = Cancellable(runs_here)
        side = LoopThread(Cancellable(runs_aside), "agl-side", on_error=end_main)
        self._run(main, side, event)

    def _run(self, main: Cancellable, thread: LoopThread, event: ThreadingEvent) -> None:
        """Run `main` in this thread beside the other; a failure of either ends both and is raised."""
        thread.start()
        try:
            run_blocking(main)
            ended = self._await_side(thread, event)
        except BaseException as error:
            event.set()
            thread.cancel()
            thread.join(self.join_timeout)
            if isinstance(error, asyncio.CancelledError) and thread.error is not None:
                raise thread.error from None
            raise
        if thread.error is not None:
            raise thread.error
        if not ended:
            raise ExecutionError(
                f"a runner did not stop within {self.join_timeout} s of being cancelled: "
                "its agent blocks the event loop; make the agent async, or its blocking part a thread"
            )

    def _await_side(self, thread: LoopThread, event: ThreadingEvent) -> bool:
        """Wait for the other thread after this one ended well; returns whether it ended.

        Runners get `graceful_delay` for the rollouts in hand. An algorithm gets all the time it needs: runners may
        have used up their quota before it has evaluated their work.
        """
        if not event.is_set():
            thread.join()
        if thread.join(self.graceful_delay):
            return True
        logger.warning("Runners were still busy %.1f s after the algorithm ended; stopping them.", self.graceful_delay)
        thread.cancel()
        return thread.join(self.join_timeout)


async def _run_algorithm(
    work: Coroutine[Any, Any, None], event: ThreadingEvent, end_runners: Callable[[], Awaitable[None]]
) -> None:
    """Run the algorithm to its end; if it is cancelled, the runners end first.

    What they run may need what the algorithm serves, and is recorded as interrupted instead of as failed.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        event.set()
        try:
            await end_runners()
        finally:  # a second Ctrl+C ends the wait for the runners, and the algorithm cleans up all the same
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("The algorithm failed while it was stopped", exc_info=error)
        raise
    finally:
        event.set()


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
