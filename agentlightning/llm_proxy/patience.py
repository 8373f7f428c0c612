"""How long one side of a stream may keep the other waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Patience:
    """Ends a wait that takes too long: one timer for a whole stream, which is a fraction of one for each chunk.

    Args:
        seconds: How long a wait may take.
        on_end: Ends it.
    """

    def __init__(self, seconds: float, on_end: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer = self._loop.call_later(seconds, self._look)

    def begin(self) -> None:
        """Begin a wait."""
        self._since = self._loop.time()

    def end(self) -> None:
        """End it."""
        self._since = None

    def close(self) -> None:
        """Look no more: there are no further waits."""
        self._timer.cancel()

    def _look(self) -> None:
        left = self._seconds if self._since is None else self._since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._on_end()
