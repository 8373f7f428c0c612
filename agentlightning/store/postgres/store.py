"""The store on PostgreSQL."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from agentlightning._internal.defaults import NAMESPACE
from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.events import Signals
from agentlightning.store.postgres.address import Address
from agentlightning.store.postgres.calls import Undo
from agentlightning.store.postgres.engine import Engine
from agentlightning.store.postgres.settled import settled_position
from agentlightning.store.postgres.transaction import Operation
from agentlightning.store.sql import feeds
from agentlightning.store.sql.store import SqlLightningStore
from agentlightning.types import SpanBatch

T = TypeVar("T")


class PostgresLightningStore(SqlLightningStore):
    """The store in a PostgreSQL database, which any number of programs on any number of machines may use at once.

    What one of them commits wakes those who wait in another. Deadlines go by the database's clock, and whichever
    program is there enforces them; time in which none is there does not count. An operation that loses its connection
    is done again on another one where it surely was not committed, for up to ten seconds.

    It may be called from any thread and loop, and pickles as its address. Prepared statements and notifications need
    connections of their own: a pooler in between must be in session mode.

    Args:
        dsn: `postgresql://user:password@host:port/database`; what it leaves out comes from the environment, as for
            every PostgreSQL program.
        namespace: Keeps stores in one database apart, `agentlightning` by default; a schema of this name is created if
            it is missing.
        connections: The most connections to use, beside the one that listens.

    Raises:
        ConfigurationError: The database or the namespace cannot be used, or a newer program wrote it.
        StoreUnreachable: Nobody answers.
        MissingExtra: `asyncpg` is not installed.
    """

    def __init__(self, dsn: str, *, namespace: str = NAMESPACE, connections: int = 8) -> None:
        if connections < 1:
            raise ConfigurationError(f"connections is {connections}: a store needs at least 1")
        super().__init__(Signals())
        self._address: Final = Address(dsn, namespace)
        self._connections: Final = connections
        self._engine: Final = Engine(self._address, self._signals, connections)
        weakref.finalize(self, self._engine.stop)

    def __reduce__(self) -> tuple[Callable[..., PostgresLightningStore], tuple[Any, ...]]:
        return _open, (self._address.dsn, self._address.namespace, self._connections)

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """Callable from any thread and loop; every process sees the same data."""
        return {"thread_safe": True, "async_safe": True, "zero_copy": True, "otlp_traces": False}

    async def write(self, operation: Operation[T], undo: Undo[T] | None = None, *, small: bool = False) -> T:
        """Run an operation that changes the store; a small one, too, in the store's own thread."""
        return await self._engine.calls.run("write", operation, undo)

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that only looks; it sees everything that was acknowledged."""
        return await self._engine.calls.run("read", operation)

    async def read_spans(self, *, rollout_id: str | None = None, cursor: int = 0, limit: int = 1000) -> SpanBatch:
        """See `LightningStore.read_spans`."""
        if rollout_id is not None:  # whose spans are written one transaction after another
            return await super().read_spans(rollout_id=rollout_id, cursor=cursor, limit=limit)
        feeds.check_reading(cursor, limit)
        until = await settled_position(self.read, self._address.lock("spans"), cursor)
        return await self.read(lambda tx: feeds.read_spans(tx, None, cursor, limit, until))

    async def close(self) -> None:
        """Finish what was accepted, and end the thread and its connections; closing twice is fine.

        Cancelled, it stops waiting, and the store closes all the same.

        Raises:
            StoreError: An operation does not end.
        """
        self._engine.stop()
        self._signals.call_all()
        await self._engine.join()


def _open(dsn: str, namespace: str, connections: int) -> PostgresLightningStore:
    return PostgresLightningStore(dsn, namespace=namespace, connections=connections)
