"""A lane answers every caller, whatever becomes of the database."""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import StoreError, TooBusy
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


@pytest.mark.parametrize(
    ("callers", "word"),
    [(1, word) for word in ("BEGIN", "INSERT", "COMMIT")]
    + [(2, word) for word in ("BEGIN", "SAVEPOINT", "INSERT", "RELEASE", "COMMIT")],
)
async def test_a_lane_survives_a_database_that_cannot_even_roll_back(
    lane: Lane, connection: FailingConnection, callers: int, word: str
) -> None:
    for _ in range(3):
        outcomes = await in_one_group(lane, connection, callers, (word, "ROLLBACK"))
        assert [str(outcome) for outcome in outcomes] == ["the database failed: disk I/O error"] * callers
    assert await asyncio.wait_for(lane.run(insert), PATIENCE) == 1
    assert await lane.run(count) == 1


async def test_a_lone_failure_leaves_nothing_behind(lane: Lane) -> None:
    async def insert_and_fail(tx: Transaction) -> None:
        await insert(tx)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await lane.run(insert_and_fail)
    assert await lane.run(insert) == 1
    assert await lane.run(count) == 1


async def in_one_group(
    lane: Lane, connection: FailingConnection, callers: int, failing: tuple[str, ...]
) -> list[int | BaseException]:
    """Let callers insert in one transaction, whose statements with these words fail."""
    async with held(lane) as free:
        calls = [asyncio.create_task(lane.run(insert)) for _ in range(callers)]
        await asyncio.sleep(0)

        def fail(_done: object) -> None:
            connection.words = failing

        lane._publish = fail  # what a commit is told to, so before the next transaction begins
        free.set()
        outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE)
    lane._publish, connection.words = (lambda changes: None), ()
    return outcomes


@asynccontextmanager
async def held(lane: Lane) -> AsyncGenerator[threading.Event]:
    """Keep the lane's thread in an operation until the event is set."""
    held, free = threading.Event(), threading.Event()

    async def hold(tx: Transaction) -> None:
        held.set()
        free.wait(PATIENCE)

    holding = asyncio.create_task(lane.run(hold))
    assert await asyncio.to_thread(held.wait, PATIENCE)
    yield free
    free.set()
    await asyncio.wait_for(holding, PATIENCE)


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


# -- small operations in their callers' threads ---------------------------------------------------------------------


class Upkeep:
    """Counts its runs and notes their thread."""

    def __init__(self, failing: int = 0) -> None:
        self.threads: list[int] = []
        self.failing = failing

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.threads.append(threading.get_ident())
        if len(self.threads) <= self.failing:
            raise sqlite3.OperationalError("disk I/O error")


@pytest.fixture
async def near(connection: FailingConnection) -> AsyncIterator[Lane]:
    lane = Lane("agl-store-test", [connection], "write", lambda changes: None, upkeep=Upkeep())
    yield lane
    lane.stop()
    await lane.join()


async def where(tx: Transaction) -> int:
    await insert(tx)
    return threading.get_ident()


async def test_a_small_operation_runs_where_its_caller_is(near: Lane) -> None:
    here = threading.get_ident()
    assert await near.run(where, small=True) == here
    assert await near.run(where) != here
    assert await near.run(where, small=True) == here
    assert await near.run(count) == 3


async def test_small_operations_that_come_together_share_a_transaction(near: Lane) -> None:
    threads = await asyncio.gather(*(near.run(where, small=True) for _ in range(5)))
    assert threading.get_ident() not in threads
    assert await near.run(count) == 5


async def test_operations_that_come_together_run_in_their_order(near: Lane) -> None:
    counts = await asyncio.gather(
        near.run(count, small=True), near.run(insert), near.run(count, small=True), near.run(insert), near.run(count)
    )
    assert counts == [0, 1, 1, 1, 2]


async def test_small_operations_follow_those_that_came_before(near: Lane) -> None:
    async with held(near) as free:
        waiting = asyncio.create_task(near.run(insert))
        await asyncio.sleep(0)
        counting = asyncio.create_task(near.run(count, small=True))
        await asyncio.wait({counting}, timeout=0.01)
        assert not counting.done()
        free.set()
        assert await asyncio.wait_for(counting, PATIENCE) == 1
        await waiting


async def test_a_small_operation_that_is_cancelled_before_its_turn_does_not_run(near: Lane) -> None:
    calling = asyncio.create_task(near.run(insert, small=True))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait({calling}, timeout=PATIENCE)
    assert calling.cancelled()
    assert await near.run(count) == 0


@pytest.mark.parametrize("word", ["BEGIN", "INSERT", "COMMIT"])
async def test_a_small_operation_hears_of_its_failure(near: Lane, connection: FailingConnection, word: str) -> None:
    for words in ((word,), (word, "ROLLBACK")):
        connection.words = words
        with pytest.raises(StoreError, match="disk I/O error"):
            await near.run(insert, small=True)
        connection.words = ()
        assert await near.run(count, small=True) == 0


async def test_a_loop_goes_on_while_another_process_writes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "timeout": 0}
    mine, other = (sqlite3.connect(tmp_path / "t.db", **options) for _ in range(2))
    mine.execute("PRAGMA journal_mode = WAL")
    mine.execute("CREATE TABLE t (x)")
    lane = Lane("agl-store-test", [mine], "write", lambda changes: None, upkeep=Upkeep())
    other.execute("BEGIN IMMEDIATE")
    calling = asyncio.create_task(lane.run(where, small=True))
    await asyncio.wait({calling}, timeout=0.02)
    assert not calling.done()
    other.execute("COMMIT")
    other.close()
    assert await asyncio.wait_for(calling, PATIENCE) != threading.get_ident()
    lane.stop()
    await lane.join()


@pytest.mark.parametrize("small", [False, True])
async def test_who_waits_too_long_for_another_process_may_come_again(
    small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Lane._commit.__kwdefaults__, "patience", 0.05)
    options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "timeout": 0}
    mine, other = (sqlite3.connect(tmp_path / "t.db", **options) for _ in range(2))
    mine.execute("CREATE TABLE t (x)")
    lane = Lane("agl-store-test", [mine], "write", lambda changes: None, upkeep=Upkeep())
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TooBusy, match="nothing was written"):
        await lane.run(insert, small=small)
    other.execute("COMMIT")
    await lane.run(insert, small=small)
    assert await lane.run(count) == 1
    other.close()
    lane.stop()
    await lane.join()


async def test_a_deadline_of_a_small_operation_sets_the_timer(connection: FailingConnection) -> None:
    timer = Timer(None)
    lane = Lane("agl-store-test", [connection], "write", lambda changes: None, timer=timer, upkeep=Upkeep())
    await lane.run(insert)
    assert len(timer.runs) == 1

    async def write_deadline(tx: Transaction) -> int:
        tx.changes.deadline = tx.clock + 0.05
        return threading.get_ident()

    assert await lane.run(write_deadline, small=True) == threading.get_ident()
    await until(lambda: len(timer.runs) == 2)
    lane.stop()
    await lane.join()


@pytest.mark.parametrize("failing", [0, 1])
async def test_the_thread_looks_after_the_database_of_small_operations(
    connection: FailingConnection, failing: int, caplog: pytest.LogCaptureFixture
) -> None:
    upkeep = Upkeep(failing)
    lane = Lane("agl-store-test", [connection], "write", lambda changes: None, upkeep=upkeep)
    for _ in range(1000):
        await lane.run(insert, small=True)
    await until(lambda: len(upkeep.threads) > 5)
    assert threading.get_ident() not in upkeep.threads
    assert len(caplog.records) == failing
    assert await lane.run(count) == 1000
    lane.stop()
    await lane.join()


# -- the timer -----------------------------------------------------------------------------------------------------


class Timer:
    """Counts its runs, and each time wants the next of these deadlines, in seconds from then; in the end none."""

    def __init__(self, *deadlines: float | None) -> None:
        self.deadlines = list(deadlines)
        self.runs: list[float] = []
        self.away: list[float] = []

    async def __call__(self, tx: Transaction, away: float) -> float | None:
        self.runs.append(tx.clock)
        self.away.append(away)
        await tx.execute("INSERT INTO t VALUES (2)")
        seconds = self.deadlines.pop(0) if self.deadlines else None
        return None if seconds is None else tx.clock + seconds


@asynccontextmanager
async def timed_lane(connection: sqlite3.Connection, timer: Timer) -> AsyncGenerator[Lane]:
    lane = Lane("agl-store-test", [connection], "write", lambda changes: None, timer=timer)
    yield lane
    lane.stop()
    await lane.join()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # conditions of other threads have no event
            await asyncio.sleep(0.005)


async def test_a_timer_runs_at_once_and_when_it_wants_to(connection: FailingConnection) -> None:
    timer = Timer(0.05, 0.0, 0.05)
    async with timed_lane(connection, timer) as lane:
        await until(lambda: len(timer.runs) == 4)
        assert timer.runs[1] - timer.runs[0] >= 0.05
        assert timer.runs[3] - timer.runs[2] >= 0.05
        assert await lane.run(count) == 4


async def test_an_earlier_deadline_that_is_reported_sets_the_timer(connection: FailingConnection) -> None:
    async def report(tx: Transaction, seconds: float) -> float:
        tx.changes.deadline = tx.clock + seconds
        return tx.clock

    timer = Timer(3600.0, None, None)
    async with timed_lane(connection, timer) as lane:
        await until(lambda: len(timer.runs) == 1)
        await lane.run(lambda tx: report(tx, 7200.0))
        began = await lane.run(lambda tx: report(tx, 0.05))
        await lane.run(lambda tx: report(tx, 60.0))
        await until(lambda: len(timer.runs) == 2)
        assert timer.runs[1] - began >= 0.05


async def test_a_deadline_of_an_operation_that_failed_is_none(connection: FailingConnection) -> None:
    async def report_then_fail(tx: Transaction) -> None:
        tx.changes.deadline = tx.clock
        raise ValueError("on purpose")

    timer = Timer()
    async with timed_lane(connection, timer) as lane:
        with pytest.raises(ValueError, match="on purpose"):
            await lane.run(report_then_fail)
        assert await lane.run(count) == 1
        assert await lane.run(count) == 1
        assert len(timer.runs) == 1


async def test_a_timer_that_fails_is_logged_and_tried_again(
    connection: FailingConnection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.store.lane._RETRY_SECONDS", 0.02)
    timer = Timer()
    connection.words = ("INSERT",)
    async with timed_lane(connection, timer) as lane:
        await until(lambda: len(timer.runs) >= 2)
        connection.words = ()
        await until(lambda: connection.total_changes == 1)
        assert await lane.run(count) == 1
    assert "disk I/O error" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def test_a_timer_runs_after_what_came_before_its_time(connection: FailingConnection) -> None:
    timer = Timer(0.05)
    async with timed_lane(connection, timer) as lane:
        await until(lambda: len(timer.runs) == 1)
        async with held(lane) as free:
            counting = [asyncio.create_task(lane.run(count)) for _ in range(300)]  # more than one group
            began = time.monotonic()
            await until(lambda: time.monotonic() > began + 0.05)
            free.set()
            assert await asyncio.gather(*counting) == [1] * 300
        await until(lambda: len(timer.runs) == 2)
        assert timer.away == [0.0, 0.0]


async def test_a_timer_hears_that_the_lane_was_away(
    connection: FailingConnection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.store.lane._PULSE", 0.02)
    monkeypatch.setattr("agentlightning.store.lane._ABSENCE", 0.2)
    monkeypatch.setattr("agentlightning.store.lane._RETRY_SECONDS", 0.02)
    timer = Timer(60.0, 60.0, 60.0)
    lane = Lane("agl-store-test", [connection], "write", lambda changes: None, timer=timer, upkeep=Upkeep())
    await until(lambda: len(timer.runs) == 1)
    began = time.monotonic()
    with lane._turn:  # the thread cannot go on, as if its process was stopped
        while time.monotonic() < began + 0.5:  # noqa: ASYNC110  # it is time that has to pass
            await asyncio.sleep(0.01)
        connection.words = ("COMMIT",)
    await until(lambda: len(timer.runs) == 2)
    connection.words = ()
    await until(lambda: len(timer.runs) >= 3)
    assert "trying again" in caplog.text
    assert timer.away[0] == 0.0
    assert timer.away[1] == pytest.approx(0.5, abs=0.4)
    assert timer.away[2] >= timer.away[1]  # the failed one counted nothing
    assert lane._away == 0.0
    lane.stop()
    await lane.join()
