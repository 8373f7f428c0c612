"""The connections of a store: opened when needed, used again, never more than so many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from agentlightning.store.postgres.driver import Connection


class Connections:
    """Lends connections, to those who came first; the one that was used last is lent first.

    Args:
        connect: Opens one.
        limit: The most that are open.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], limit: int) -> None:
        self._connect = connect
        self._free = asyncio.Semaphore(limit)
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[Connection]:
        """Lend a connection for a block."""
        async with self._free:
            connection = self._take() or await self._connect()
            try:
                yield connection
            finally:
                if not connection.is_closed():
                    self._idle.append(connection)

    async def close(self, timeout: float) -> None:
        """Close those that are not lent."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(hang_up(connection, timeout) for connection in idle))

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None


async def hang_up(connection: Connection, timeout: float) -> None:
    """Close a connection, in good form if the database answers in time."""
    try:
        await connection.close(timeout=timeout)
    except Exception:  # noqa: BLE001  # however saying goodbye fails, there is nothing left to say
        connection.terminate()
