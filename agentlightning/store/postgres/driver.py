"""asyncpg: the one place that imports it, and what the store uses of a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, cast

from agentlightning.extras import needed_for
from agentlightning.store.sql.transaction import Row

with needed_for("PostgresLightningStore"):
    import asyncpg

__all__ = ["FAILURES", "UNSENT", "Connection", "asyncpg", "connect"]

UNSENT: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a connection raises that is closed already, or was told by the database that it is: nothing is sent on it."""

FAILURES: Final = (asyncpg.PostgresError, *UNSENT, OSError)
"""All that a connection raises."""


class Connection(Protocol):
    """A connection of asyncpg, whose own annotations leave most types open."""

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        """Return all rows."""
        ...

    async def fetchval(self, query: str, *args: Any) -> Any:
        """Return the first column of the first row, or None."""
        ...

    async def execute(self, query: str, *args: Any) -> str:
        """Run statements, several only without arguments; returns what the database said to the last one."""
        ...

    async def executemany(self, command: str, args: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each sequence of arguments."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Commit what the block does, or roll it back if it raises."""
        ...

    async def add_listener(self, channel: str, callback: Callable[..., object]) -> None:
        """Call back with connection, process, channel and payload of each notification."""
        ...

    def add_termination_listener(self, callback: Callable[..., object]) -> None:
        """Call back with the connection once it is closed, whoever closes it."""
        ...

    def is_closed(self) -> bool:
        """Whether it was closed or lost."""
        ...

    def terminate(self) -> None:
        """Close it at once, without a word to the database."""
        ...

    async def close(self, *, timeout: float | None = None) -> None:
        """Close it in good form."""
        ...


connect: Final[Callable[..., Awaitable[Connection]]] = cast("Any", asyncpg).connect
"""`asyncpg.connect`."""
