"""A blocking library beside an event loop: it runs in a thread of its own and awaits on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from agentlightning._internal.threads import run_in_thread

ResultT = TypeVar("ResultT")


class _Ended(BaseException):
    """Unwinds the library, past whatever it does about an `Exception`."""


class Bridge:
    """What the library's callbacks reach the event loop by; made on the loop.

    An error of what is awaited, or its cancellation, ends the library's run, and is raised by `run`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = False
        self._error: BaseException | None = None

    async def run(self, blocking: Callable[[], ResultT], name: str) -> ResultT:
        """Call the library in a thread and wait for it; whoever is cancelled leaves when the thread has ended.

        Args:
            blocking: Calls the library.
            name: The thread's name.
        """
        work = asyncio.ensure_future(run_in_thread(lambda: self._unwound(blocking), name))
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            self._ended = True
            for task in self._tasks:
                task.cancel()
            await asyncio.wait({work})
            work.exception()  # which nobody else will look at
            raise
        if self._error is not None:
            raise self._error
        return work.result()

    def wait(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Await on the loop; for the library's thread."""
        try:
            return asyncio.run_coroutine_threadsafe(self._await(work), self._loop).result()
        except CancelledError:
            self._error = asyncio.CancelledError()
            raise _Ended from None
        except Exception as error:  # noqa: BLE001  # raised by `run`; the library would go on after it
            self._error = error
            raise _Ended from None

    async def _await(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        if self._ended:
            work.close()
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None  # it runs as one
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    def _unwound(self, blocking: Callable[[], ResultT]) -> ResultT | None:
        try:
            return blocking()
        except _Ended:
            return None
