"""Small pieces of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, runtime_checkable


class StopFlag(Protocol):
    """What a stop event offers at least."""

    def is_set(self) -> bool:
        """Whether the flag is up."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the flag is up or the time is over."""
        ...


@runtime_checkable
class Subscribable(Protocol):
    """A stop event that calls back, so that waiting for it costs neither a thread nor a poll."""

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` once the flag goes up, at once if it is up; returns what unsubscribes."""
        ...


async def wait_for_flag(flag: StopFlag) -> None:
    """Return when the flag is up; cancelling the wait leaves nothing behind.

    A flag that cannot call back (one shared between processes, say) is watched by a thread in slices of 0.2 s.
    """
    if not isinstance(flag, Subscribable):
        while not await asyncio.to_thread(flag.wait, 0.2):
            pass
        return
    loop = asyncio.get_running_loop()
    up = asyncio.Event()
    unsubscribe = flag.subscribe(lambda: loop.call_soon_threadsafe(up.set))
    try:
        await up.wait()
    finally:
        unsubscribe()
