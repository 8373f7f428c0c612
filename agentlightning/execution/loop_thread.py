"""Coroutines run to their end from synchronous code: in this thread, or in one with a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.interrupts import interrupts_cancel, interrupts_raise

ResultT = TypeVar("ResultT")

CoroutineFactory: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Cancellable:
    """A coroutine that any thread may cancel: before it runs, while it runs, or too late."""

    def __init__(self, factory: CoroutineFactory) -> None:
        self._factory = factory
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None
        self._cancelled = False

    async def run(self) -> None:
        """Run the coroutine.

        Raises:
            asyncio.CancelledError: `cancel` was called.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        with self._lock:
            if self._cancelled:
                raise asyncio.CancelledError
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            await self._factory()
        finally:
            with self._lock:
                self._cancel = None

    def cancel(self) -> None:
        """Cancel the coroutine if it has not ended."""
        with self._lock:
            self._cancelled = True
            if self._cancel is not None:
                self._cancel()


class LoopThread:
    """Runs a coroutine in a thread with its own event loop.

    The thread is a daemon: a coroutine that ignores its cancellation cannot keep the program from exiting.

    Args:
        coroutine: What to run.
        name: The thread's name.
        on_error: Called in that thread when the coroutine raised; the error itself is kept in `error`.

    Attributes:
        error: What the coroutine raised.
        ended: Set when it has ended.
    """

    def __init__(self, coroutine: Cancellable, name: str, on_error: Callable[[], None] | None = None) -> None:
        self.error: BaseException | None = None
        self.ended = ThreadingEvent()
        self._coroutine = coroutine
        self._on_error = on_error
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def cancel(self) -> None:
        """Cancel the coroutine."""
        self._coroutine.cancel()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; returns whether it came in `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            run_in_this_thread(self._coroutine)
        except asyncio.CancelledError:
            pass  # `cancel` asked for it
        except BaseException as error:  # noqa: BLE001  # handed over to the thread that joins
            self.error = error
            if self._on_error is not None:
                self._on_error()
        finally:
            self.ended.set()


def run_in_this_thread(coroutine: Cancellable) -> None:
    """Run the coroutine on a new event loop of this thread."""
    with (
        asyncio.Runner() as runner,
        interrupts_cancel(runner.get_loop(), coroutine.cancel),
    ):
        runner.run(coroutine.run())


def run_to_result(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine to its end, also where an event loop runs already, and return its result."""
    results: list[ResultT] = []

    async def run() -> None:
        results.append(await work)

    run_blocking(Cancellable(run))
    return results[0]


def run_blocking(coroutine: Cancellable) -> None:
    """Run the coroutine and block until it ends, also where an event loop runs already (a notebook).

    Ctrl+C cancels the coroutine, and KeyboardInterrupt is raised once it has cleaned up; SIGTERM likewise.
    """
    if not _loop_is_running():
        run_in_this_thread(coroutine)
        return
    thread = LoopThread(coroutine, "agl-main")
    thread.start()
    with interrupts_raise():
        try:
            thread.join()
        except (KeyboardInterrupt, SystemExit):
            thread.cancel()
            _join_again(thread)
            raise
    if thread.error is not None:
        raise thread.error


def _join_again(thread: LoopThread) -> None:
    """Let a cancelled thread clean up; one more Ctrl+C shortens that, and another one ends the wait."""
    try:
        thread.join()
    except (KeyboardInterrupt, SystemExit):
        thread.cancel()
        thread.join()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
