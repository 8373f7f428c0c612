"""Transactions on a SQLite connection.

Operations are coroutines, so that a database with an asynchronous driver can await the same code. On SQLite nothing
they await ever suspends: each is run to its end with a single `send`.
"""

from __future__ import annotations

import functools
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from agentlightning.store.sql.transaction import Changes, Row, Transaction, Value

logger = logging.getLogger(__name__)

T = TypeVar("T")
Operation: TypeAlias = Callable[[Transaction], Coroutine[Any, Any, T]]

_BUSY_PAUSE: Final = 0.002


class SqliteTransaction:
    """A transaction on a SQLite connection."""

    __slots__ = ("_connection", "changes", "clock", "now")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.now = time.time()
        self.clock = time.monotonic()
        self.changes = Changes()

    async def fetch(self, sql: str, params: Sequence[Value] = ()) -> list[Row]:
        """Return all rows."""
        return self._connection.execute(_without_locks(sql), params).fetchall()

    async def fetch_one(self, sql: str, params: Sequence[Value] = ()) -> Row | None:
        """Return the first row, or None."""
        # All rows, for a statement that is not read to its end stays open: `UPDATE … RETURNING` would block COMMIT.
        rows = self._connection.execute(_without_locks(sql), params).fetchall()
        return rows[0] if rows else None

    async def execute(self, sql: str, params: Sequence[Value] = ()) -> int:
        """Return how many rows changed."""
        return self._connection.execute(sql, params).rowcount

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run a statement once for each row."""
        self._connection.executemany(sql, rows)


@functools.cache
def _without_locks(sql: str) -> str:
    """SQLite has one writer at a time and knows no row locks."""
    return re.sub(r" FOR UPDATE OF \w+( SKIP LOCKED)?", "", sql)


def begin_within(connection: sqlite3.Connection, begin: str, patience: float) -> bool:
    """Begin a transaction; returns False if another process was busy with its own for all of these seconds."""
    give_up = time.monotonic() + patience
    while True:
        try:
            connection.execute(begin)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        else:
            return True
        if time.monotonic() >= give_up:
            return False
        time.sleep(_BUSY_PAUSE)


def run_alone(connection: sqlite3.Connection, operation: Operation[T]) -> T:
    """Run an operation in a transaction of its own on a connection that no lane has."""
    connection.execute("BEGIN IMMEDIATE")
    result = run_to_end(operation(SqliteTransaction(connection)))
    connection.execute("COMMIT")
    return result


def roll_back(connection: sqlite3.Connection) -> None:
    """Undo what was not committed; a failure is logged, for the next transaction begins with another try."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        logger.error("Could not roll back (%s); the next transaction begins with it", error)


def run_to_end(operation: Coroutine[Any, Any, T]) -> T:
    """Return what an operation returns."""
    try:
        operation.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("an operation of the store awaited something other than its transaction")
