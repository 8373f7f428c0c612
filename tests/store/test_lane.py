"""A lane answers every caller, whatever becomes of the database."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlightning.errors import StoreError
from agentlightning.store.lane import Lane
from agentlightning.store.sql.transaction import Transaction

PATIENCE = 10.0


class FailingConnection(sqlite3.Connection):
    """Fails at the statements that hold one of the words."""

    words: tuple[str, ...] = ()

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if any(word in sql for word in self.words):
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *args)


@pytest.fixture
def connection() -> FailingConnection:
    options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False}
    made = sqlite3.connect(":memory:", factory=FailingConnection, **options)
    made.execute("CREATE TABLE t (x)")
    return made


@pytest.fixture
async def lane(connection: FailingConnection) -> AsyncIterator[Lane]:
    lane = Lane("agl-store-test", [connection], "write", lambda changes: None)
    yield lane
    lane.stop()
    await lane.join()


async def insert(tx: Transaction) -> int:
    return await tx.execute("INSERT INTO t VALUES (1)")


async def count(tx: Transaction) -> int:
    row = await tx.fetch_one("SELECT COUNT(*) FROM t")
    assert row is not None
    return row[0]


async def test_a_full_disk_is_named_to_the_whole_group_and_passes(lane: Lane) -> None:
    async def insert_much(tx: Transaction) -> int:
        return await tx.execute("INSERT INTO t VALUES (zeroblob(1000000))")

    await lane.run(lambda tx: tx.fetch("PRAGMA max_page_count = 10"))
    group = [asyncio.create_task(lane.run(operation)) for operation in (insert, insert_much, insert)]
    outcomes = await asyncio.gather(*group, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["the database failed: database or disk is full"] * 3
    assert await lane.run(count) == 0
    assert await lane.run(insert) == 1


@pytest.mark.parametrize("word", ["BEGIN", "SAVEPOINT", "INSERT", "RELEASE", "COMMIT"])
async def test_a_lane_survives_a_database_that_cannot_even_roll_back(
    lane: Lane, connection: FailingConnection, word: str
) -> None:
    connection.words = (word, "ROLLBACK")
    for _ in range(3):
        with pytest.raises(StoreError, match="disk I/O error"):
            await asyncio.wait_for(lane.run(insert), PATIENCE)
    connection.words = ()
    assert await asyncio.wait_for(lane.run(insert), PATIENCE) == 1
    assert await lane.run(count) == 1


async def test_an_undoing_that_fails_is_logged(
    lane: Lane, connection: FailingConnection, caplog: pytest.LogCaptureFixture
) -> None:
    async def undo(tx: Transaction, result: int) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    calling = asyncio.create_task(lane.run(insert, undo))
    await asyncio.sleep(0)
    thread = threading.Thread(target=lambda: asyncio.run(lane.run(count)))
    thread.start()
    thread.join(PATIENCE)  # this loop stands still until all is committed
    calling.cancel()
    await asyncio.wait({calling}, timeout=PATIENCE)
    assert await lane.run(count) == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "disk I/O error" in caplog.text
