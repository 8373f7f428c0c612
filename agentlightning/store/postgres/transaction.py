"""A transaction on a PostgreSQL connection, and how it begins and ends."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from agentlightning.errors import StoreError
from agentlightning.store.postgres.dialect import translate
from agentlightning.store.postgres.driver import FAILURES, UNSENT, Connection, asyncpg
from agentlightning.store.sql.transaction import Changes, Row, Transaction, Value

logger = logging.getLogger(__name__)

T = TypeVar("T")

Operation: TypeAlias = Callable[[Transaction], Coroutine[Any, Any, T]]


_SKIPPED_SECONDS: Final = 1.0
"""How long rows may be held by others before they count as not there."""
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02


class PostgresTransaction:
    """A transaction on a PostgreSQL connection; its times are the database's."""

    __slots__ = ("_connection", "changes", "clock", "now")

    def __init__(self, connection: Connection, now: float) -> None:
        self._connection = connection
        self.now = self.clock = now
        self.changes = Changes()

    async def fetch(self, sql: str, params: Sequence[Value] = ()) -> list[Row]:
        """Return all rows."""
        statement = translate(sql)
        bound = statement.bind(params)
        rows = await self._connection.fetch(statement.sql, *bound)
        if rows and statement.again:
            rows = await self._connection.fetch(statement.again, *bound)
        if not rows and statement.skipped:
            rows = await self._fetch_skipped(statement.sql, statement.skipped, bound)
        return rows

    async def _fetch_skipped(self, sql: str, skipped: str, bound: Sequence[Any]) -> list[Row]:
        """Fetch as soon as others let go of the rows, or nothing once there are none."""
        # Looking again, for whoever waits for a row holds it afterwards, even one it does not want any more: those who
        # wait for several would wait for each other.
        rows: list[Row] = []
        give_up = time.monotonic() + _SKIPPED_SECONDS
        pause = _FIRST_PAUSE
        while not rows and time.monotonic() < give_up and await self._connection.fetchval(skipped, *bound):
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST_PAUSE)
            rows = await self._connection.fetch(sql, *bound)
        return rows

    async def fetch_one(self, sql: str, params: Sequence[Value] = ()) -> Row | None:
        """Return the first row, or None."""
        rows = await self.fetch(sql, params)
        return rows[0] if rows else None

    async def execute(self, sql: str, params: Sequence[Value] = ()) -> int:
        """Return how many rows changed."""
        statement = translate(sql)
        done = await self._connection.execute(statement.sql, *statement.bind(params))
        count = done.rpartition(" ")[2]  # "INSERT 0 1", "UPDATE 1", "CREATE TABLE"
        return int(count) if count.isdecimal() else -1

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run a statement once for each row."""
        statement = translate(sql)
        await self._connection.executemany(statement.sql, [statement.bind(row) for row in rows])


class UnknownOutcome(StoreError):
    """The connection was lost while a transaction was committed."""


async def write(
    connection: Connection,
    operation: Operation[T],
    announcement: Callable[[Changes], str],
) -> tuple[T, Changes]:
    """Run an operation that changes the store; each statement sees what is committed when it begins.

    Args:
        connection: Where; no transaction is open.
        operation: What to do.
        announcement: Makes the statement that tells the other stores of the changes, with the commit.

    Returns:
        The operation's result, and what it changed.

    Raises:
        UnknownOutcome: Nobody knows whether it was committed.
    """
    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
    try:
        transaction = PostgresTransaction(connection, await _time(connection))
        result = await operation(transaction)
    except BaseException:
        await roll_back(connection)
        raise
    await _commit(connection, f"{announcement(transaction.changes)}COMMIT")
    return result, transaction.changes


async def read(connection: Connection, operation: Operation[T]) -> T:
    """Run an operation that only looks; it sees one moment.

    Args:
        connection: Where; no transaction is open.
        operation: What to do.
    """
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        return await operation(PostgresTransaction(connection, await _time(connection)))  # the moment is now
    finally:
        await roll_back(connection)


async def _time(connection: Connection) -> float:
    return await connection.fetchval("SELECT EXTRACT(EPOCH FROM clock_timestamp())::double precision")


async def _commit(connection: Connection, statements: str) -> None:
    try:
        done = await connection.execute(statements)
    except UNSENT:
        connection.terminate()
        raise
    except (asyncpg.PostgresError, OSError) as error:
        if connection.is_closed() or not isinstance(error, asyncpg.PostgresError):
            connection.terminate()
            raise _unknown(error) from error
        await roll_back(connection)
        raise
    if done != "COMMIT":
        raise StoreError(f"the database did not commit but said {done}")


def _unknown(error: Exception) -> UnknownOutcome:
    return UnknownOutcome(
        f"the connection to PostgreSQL was lost while a change was committed ({type(error).__name__}: {error}): "
        "look whether it is there before you repeat it"
    )


async def roll_back(connection: Connection) -> None:
    """Leave the connection without a transaction, or closed."""
    if connection.is_closed():
        return
    try:
        await connection.execute("ROLLBACK")
    except FAILURES as error:
        logger.warning("Could not roll back (%s: %s); the connection is given up", type(error).__name__, error)
        connection.terminate()
