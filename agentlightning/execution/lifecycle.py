"""The one lifecycle of every placement: two sides that live and end together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from agentlightning._internal.aio import wait_for_flag
from agentlightning.errors import ExecutionError
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.loop_thread import Cancellable, CoroutineFactory, LoopThread, run_blocking

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lifecycle:
    """Runs an algorithm and its runners side by side, and ends them together.

    When the algorithm ends, the event is set, and the runners end. When either side fails, or Ctrl+C ends the calling
    thread's side, the other is cancelled; runners end before the algorithm does.

    Attributes:
        main: Who gets the calling thread; the other side gets a thread of its own.
        graceful_delay: Seconds that the runners get for the rollouts in hand when the algorithm has ended.
        join_timeout: Seconds that the other side gets to end once it was cancelled.
    """

    main: Literal["algorithm", "runner"]
    graceful_delay: float
    join_timeout: float

    def run(self, algorithm: CoroutineFactory, runners: CoroutineFactory, event: ThreadingEvent) -> None:
        """Run both sides to their end.

        Args:
            algorithm: One side.
            runners: The other, which ends once the event is set.
            event: Set when the algorithm has ended, or all is to end.

        Raises:
            ExecutionError: A side did not end.
            Exception: Whatever either side raised.
        """

        async def run_algorithm() -> None:
            await _run_algorithm(algorithm(), event, end_runners)

        async def end_runners() -> None:
            if self.main == "algorithm":  # else they have ended: theirs is the thread that is cancelled first
                side.cancel()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.join_timeout):
                        await wait_for_flag(side.ended)

        def end_main() -> None:
            event.set()
            main.cancel()

        runs_here, runs_aside = run_algorithm, runners
        if self.main == "runner":
            runs_here, runs_aside = runners, run_algorithm
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
