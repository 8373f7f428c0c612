"""Small pieces of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

ResultT = TypeVar("ResultT")

POLL_SECONDS: Final = 0.1
"""How late a flag that cannot call back is seen to be up."""


class StopFlag(Protocol):
    """What a stop event offers at least."""

    def is_set(self) -> bool:
        """Whether the flag is up."""
        ...


@runtime_checkable
class Subscribable(Protocol):
    """A stop event that calls back, so that waiting for it costs neither a thread nor a poll."""

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` once the flag goes up, at once if it is up; returns what unsubscribes."""
        ...


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller runs on this loop, in its thread."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # no loop runs in this thread
        return False


async def wait_for_flag(flag: StopFlag) -> None:
    """Return when the flag is up; cancelling the wait leaves nothing behind."""
    if not isinstance(flag, Subscribable):
        # Polled, as such a flag (one shared between processes, say) offers nothing else but to block a thread: each
        # waiter would take one from the executor that agents use.
        while not flag.is_set():  # noqa: ASYNC110  # see above
            await asyncio.sleep(POLL_SECONDS)
        return
    loop = asyncio.get_running_loop()
    up = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop was closed just now: nobody waits any more
            loop.call_soon_threadsafe(up.set)

    unsubscribe = flag.subscribe(wake)
    try:
        if not flag.is_set():
            await up.wait()
    finally:
        unsubscribe()


async def to_its_end(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Await something to its end even while the caller is being cancelled; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
