"""How the engine's thread wakes tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress


class LoopEvent:
    """An event that another thread sets, and a task of the loop that made it waits for.

    Attributes:
        loop: That loop.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """End the present wait or, if there is none, the next one; only the loop's own thread may call it."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until the event was set since the last wait."""
        await self._event.wait()
        self._event.clear()


def set_all(events: Iterable[LoopEvent]) -> None:
    """Set events from any thread. Each loop is woken once: a wake-up is a system call, and a fight for the GIL."""
    by_loop: dict[asyncio.AbstractEventLoop, list[LoopEvent]] = {}
    for event in events:
        by_loop.setdefault(event.loop, []).append(event)
    for loop, group in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            loop.call_soon_threadsafe(_set_each, group)


def _set_each(events: list[LoopEvent]) -> None:
    for event in events:
        event.set()
