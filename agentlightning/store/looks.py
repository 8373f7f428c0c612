"""One look into a store for all who want to know the same at the same time, such as the waiters of one rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
_Key: TypeAlias = tuple[asyncio.AbstractEventLoop, Hashable]


class Looks:
    """The looks that are about to begin, by what they look for."""

    def __init__(self) -> None:
        self._coming: dict[_Key, asyncio.Task[Any]] = {}

    async def share(self, what: Hashable, look: Callable[[], Awaitable[T]]) -> T:
        """Return what `look` finds. It begins when the loop has gone on, and whoever asks until then shares it.

        So a look never began before somebody asked for it. If one of them is cancelled, the others go on.
        """
        key = (asyncio.get_running_loop(), what)
        task = self._coming.get(key)
        if task is None:
            task = self._coming[key] = asyncio.create_task(self._begin(key, look))
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)

    async def _begin(self, key: _Key, look: Callable[[], Awaitable[T]]) -> T:
        del self._coming[key]  # who comes now needs a look that begins later
        return await look()

    def _end(self, key: _Key, task: asyncio.Task[Any]) -> None:
        if self._coming.get(key) is task:  # it was cancelled before it began
            del self._coming[key]
        if not task.cancelled():
            task.exception()  # all who asked may have left, and then nobody else hears of it
