"""Long work on an event loop, which lets others have their turn."""

from __future__ import annotations

import asyncio
import time
from typing import Final

_TURN_SECONDS: Final = 0.002


class Pace:
    """Ends a turn of the event loop when it has lasted for some milliseconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def rest(self) -> None:
        """Let others have their turn, if this one has lasted; call it between bounded parts of the work."""
        if time.perf_counter() - self._began > _TURN_SECONDS:
            await asyncio.sleep(0)
            self._began = time.perf_counter()
