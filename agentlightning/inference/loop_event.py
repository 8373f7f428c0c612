"""How the engine's thread wakes a task."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class LoopEvent:
    """An event that any thread sets, and a task of the loop that made it waits for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """End the present wait or, if there is none, the next one."""
        if not self._event.is_set():
            with suppress(RuntimeError):  # the loop was closed: nobody waits
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait until the event was set since the last wait."""
        await self._event.wait()
        self._event.clear()
