"""What is due ends by itself: when exactly, in what order, and without a poll."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentlightning.store import InMemoryLightningStore, SqliteLightningStore
from agentlightning.store.opening import open_store
from agentlightning.store.sql import deadlines, leases
from agentlightning.store.sql.deadlines import earliest_deadline, expire_due
from agentlightning.store.sql.transaction import Row, Transaction
from agentlightning.types import AttemptedRollout, RolloutConfig, RolloutStatus

PATIENCE = 10.0


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    """A store whose clock only the tests watch."""
    store = InMemoryLightningStore()
    store._writes._timer = None
    yield store
    await store.close()


async def start(store: InMemoryLightningStore, **config: object) -> AttemptedRollout:
    return await store.start_rollout(1, config=RolloutConfig(**config))  # type: ignore[arg-type]


async def statuses(store: InMemoryLightningStore) -> list[RolloutStatus]:
    return [rollout.status for rollout in await store.query_rollouts()]


async def reported(store: InMemoryLightningStore, operation: str, *args: object) -> float | None:
    """Run an operation of the store; returns the deadline that it reported, in seconds from its own time."""
    seen: list[float | None] = []
    write = store.write

    async def watching_write(run, undo=None, **how):  # type: ignore[no-untyped-def]
        async def watched(tx: Transaction) -> object:
            result = await run(tx)
            seen.append(None if tx.changes.deadline is None else tx.changes.deadline - tx.clock)
            return result

        return await write(watched, undo, **how)

    store.write = watching_write  # type: ignore[method-assign]
    try:
        await getattr(store, operation)(*args)
    finally:
        store.write = write  # type: ignore[method-assign]
    return seen[-1]


async def test_nothing_is_due_without_deadlines(store: InMemoryLightningStore) -> None:
    assert await store.write(earliest_deadline) is None
    await start(store)
    assert await store.write(earliest_deadline) is None
    assert await store.write(lambda tx: expire_due(tx, 10)) == 0
    assert await statuses(store) == ["preparing"]


async def test_the_earliest_deadline_is_that_of_a_live_attempt(store: InMemoryLightningStore) -> None:
    before = time.monotonic()
    for config in ({"timeout_seconds": 300.0}, {"unresponsive_seconds": 200.0, "timeout_seconds": 900.0}):
        await start(store, **config)
    ended = await start(store, timeout_seconds=100.0)
    earliest = await store.write(earliest_deadline)
    assert earliest is not None
    assert before + 100 <= earliest <= time.monotonic() + 100
    await store.update_attempt(ended.rollout_id, "latest", status="succeeded")
    earliest = await store.write(earliest_deadline)
    assert earliest is not None
    assert before + 200 <= earliest <= time.monotonic() + 200


async def test_no_more_expires_at_a_time_than_asked_for(store: InMemoryLightningStore) -> None:
    for config in ({"timeout_seconds": 0.0}, {"unresponsive_seconds": 0.0}) * 3:
        await start(store, **config)
    for expired in (4, 2, 0):
        assert await store.write(lambda tx: expire_due(tx, 4)) == expired
    assert await statuses(store) == ["failed"] * 6


async def test_every_new_deadline_is_reported(store: InMemoryLightningStore) -> None:
    config = RolloutConfig(timeout_seconds=60, unresponsive_seconds=40)
    silent = await start(store, timeout_seconds=60, unresponsive_seconds=40)
    assert await reported(store, "start_attempt", silent.rollout_id) == pytest.approx(40)
    assert await reported(store, "update_rollout", silent.rollout_id, None, None, None) is None
    await store.enqueue_rollout(1, config=RolloutConfig(timeout_seconds=7))
    assert await reported(store, "dequeue_rollout") == pytest.approx(7)
    await store.update_attempt(silent.rollout_id, "latest", status="unresponsive")
    assert await reported(store, "update_attempt", silent.rollout_id, "latest", "running") == pytest.approx(40)

    async def set_config(tx: Transaction) -> None:
        await leases.set_deadlines(tx, silent.rollout_id, config.model_copy(update={"timeout_seconds": 20}))
        assert tx.changes.deadline is not None
        assert tx.changes.deadline <= tx.clock + 20

    await store.write(set_config)


async def test_waiting_for_the_clock_uses_the_indexes(store: InMemoryLightningStore) -> None:
    async def plan(tx: Transaction) -> list[str]:
        steps: list[str] = []
        for sql in (deadlines._EARLIEST, *(deadlines._DUE.format(column=c) for c in ("timeout_at", "silent_at"))):
            steps += [row[3] for row in await tx.fetch(f"EXPLAIN QUERY PLAN {sql}", (1, 1)[: sql.count("?")])]
        return steps

    steps = await store.write(plan)
    assert [step for step in steps if "USING INDEX attempts_by_" in step]
    assert not [step for step in steps if "TEMP B-TREE" in step or step.startswith("SCAN a")]


# -- the timer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_the_timer_runs_only_when_something_is_due(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[float] = []

    async def counting(tx: Transaction, away: float) -> float | None:
        runs.append(tx.clock)
        return await deadlines.enforce_deadlines(tx, away)

    monkeypatch.setattr("agentlightning.store.sqlite.enforce_deadlines", counting)
    store = InMemoryLightningStore() if kind == "memory" else SqliteLightningStore(tmp_path / "store.db")
    for seconds in (None, 3600, 1e300, math.inf):
        config = RolloutConfig(timeout_seconds=seconds, unresponsive_seconds=seconds)
        await store.start_rollout(1, config=config, worker_id="w")
        await store.update_worker("w")
    short = await store.start_rollout(1, config=RolloutConfig(timeout_seconds=0.1))
    async with asyncio.timeout(PATIENCE):
        await store.wait_for_rollouts(rollout_ids=[short.rollout_id])
    assert len(runs) == 2  # at the opening, and when the time had come
    await store.close()


async def test_what_is_due_ends_between_other_operations_too() -> None:
    store = InMemoryLightningStore()
    short = await store.start_rollout(1, config=RolloutConfig(timeout_seconds=0.1))
    stop = threading.Event()

    async def keep_busy() -> None:
        while not stop.is_set():
            await asyncio.gather(*(store.update_worker(f"w{n}") for n in range(300)))

    thread = threading.Thread(target=lambda: asyncio.run(keep_busy()))
    thread.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await store.wait_for_rollouts(rollout_ids=[short.rollout_id])
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    await store.close()


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_sign_of_life_that_came_in_time_counts_however_busy_the_writer_was(tmp_path: Path, kind: str) -> None:
    store = InMemoryLightningStore() if kind == "memory" else SqliteLightningStore(tmp_path / "store.db")
    made = await store.start_rollout(1, worker_id="w", config=RolloutConfig(unresponsive_seconds=0.2))
    over = time.monotonic() + 0.2
    held = threading.Event()

    async def hold(tx: Transaction) -> None:
        held.set()
        threading.Event().wait(over + 0.05 - time.monotonic())

    holding = asyncio.create_task(store.write(hold))
    assert await asyncio.to_thread(held.wait, PATIENCE)
    renewal = await store.renew_leases("w", [(made.rollout_id, made.attempt.attempt_id)])
    assert time.monotonic() > over
    assert renewal.lost == []
    await holding
    async with asyncio.timeout(PATIENCE):  # and from then on silence counts again
        (ended,) = await store.wait_for_rollouts(rollout_ids=[made.rollout_id])
    assert ended.status == "failed"
    await store.close()


async def test_the_time_for_which_the_store_was_away_does_not_count(store: InMemoryLightningStore) -> None:
    config = {"timeout_seconds": 300.0, "unresponsive_seconds": 50.0}
    for status in (None, "running", "succeeded"):
        made = await start(store, **config)
        if status:
            await store.update_attempt(made.rollout_id, "latest", status=status)  # type: ignore[arg-type]
    await start(store)

    async def left(tx: Transaction) -> list[Row]:
        return await tx.fetch(
            "SELECT timeout_at - ?, silent_at - ?, timeout_at - lease_start FROM attempts a JOIN rollouts r "
            "ON r.rollout_id = a.rollout_id ORDER BY r.position",
            (tx.clock, tx.clock),
        )

    earliest = await store.write(lambda tx: deadlines.enforce_deadlines(tx, 400.0))
    assert earliest is not None
    assert earliest - time.monotonic() == pytest.approx(450, abs=PATIENCE)
    *live, ended, without = await store.write(left)
    for row in live:
        assert tuple(row) == pytest.approx((700, 450, 300), abs=PATIENCE)
    assert tuple(ended) == pytest.approx((300, 50, 300), abs=PATIENCE)
    assert tuple(without) == (None, None, None)
    assert await statuses(store) == ["preparing", "running", "succeeded", "preparing"]


async def test_a_waiting_timer_keeps_nobody_from_closing() -> None:
    store = InMemoryLightningStore()
    await store.start_rollout(1, config=RolloutConfig(timeout_seconds=3600))
    async with asyncio.timeout(PATIENCE):
        await store.close()


# -- files ---------------------------------------------------------------------------------------------------------


async def lengths(store: SqliteLightningStore) -> list[tuple[float | None, float | None]]:
    """Return how long each attempt may still live and be silent."""

    async def read(tx: Transaction) -> list[tuple[float | None, float | None]]:
        rows = await tx.fetch("SELECT timeout_at, silent_at FROM attempts ORDER BY rollout_id")
        return [(row[0] and row[0] - tx.clock, row[1] and row[1] - tx.clock) for row in rows]

    return await store.read(read)


async def shift_clock(store: SqliteLightningStore, seconds: float) -> None:
    """Make all leases older, as if the machine's clock had gone on or begun anew."""
    columns = ("lease_start", "timeout_at", "silent_at")
    assignments = ", ".join(f"{column} = {column} - ?" for column in columns)
    await store.write(lambda tx: tx.execute(f"UPDATE attempts SET {assignments}", (seconds,) * len(columns)))


@pytest.mark.parametrize("shift", [1e6, -1e6])
async def test_a_restart_gives_every_lease_its_full_length(tmp_path: Path, shift: float) -> None:
    store = SqliteLightningStore(tmp_path / "store.db")
    store._writes._timer = None
    config = RolloutConfig(timeout_seconds=300, unresponsive_seconds=50)
    for status in (None, "running", "unresponsive"):
        made = await store.start_rollout(1, config=config)
        if status:
            await store.update_attempt(made.rollout_id, "latest", status=status)  # type: ignore[arg-type]
    await shift_clock(store, shift)
    await store.close()
    again = SqliteLightningStore(tmp_path / "store.db")
    for life, silence in await lengths(again):
        assert life == pytest.approx(300, abs=PATIENCE)
        assert silence == pytest.approx(50, abs=PATIENCE)
    assert [r.attempt.status for r in await again.query_rollouts() if isinstance(r, AttemptedRollout)] == [
        "preparing",
        "running",
        "unresponsive",
    ]
    await again.close()


async def test_opening_a_file_that_is_open_leaves_its_leases_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    presence = tmp_path / "store.db-open"
    presence.touch()  # a store that was killed left it behind
    one = SqliteLightningStore(path)
    await one.start_rollout(1, config=RolloutConfig(timeout_seconds=300, unresponsive_seconds=300))
    await shift_clock(one, 100)
    second = SqliteLightningStore(path)
    await one.close()
    third = SqliteLightningStore(path)
    SqliteLightningStore(path, read_only=True)
    tool = open_store(path)
    await second.close()
    await third.close()
    [(life, silence)] = await lengths(tool)
    assert (life, silence) == pytest.approx((200, 200), abs=PATIENCE)
    alone = SqliteLightningStore(path)  # but for a tool
    assert await lengths(alone) == [pytest.approx((300, 300), abs=PATIENCE)]
    await alone.close()
    await tool.close()
    assert not presence.exists()


async def test_a_tool_ends_no_attempt(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    store._writes._timer = None
    await store.start_rollout(1, config=RolloutConfig(timeout_seconds=0.0))
    await store.close()
    tool = open_store(path)
    await tool.update_worker("w")
    await tool.update_worker("w")  # a timer would have run before, or between
    assert [rollout.status for rollout in await tool.query_rollouts()] == ["preparing"]
    await tool.close()


async def test_a_restart_finds_the_deadlines_of_before(tmp_path: Path) -> None:
    store = SqliteLightningStore(tmp_path / "store.db")
    made = await store.start_rollout(1, config=RolloutConfig(timeout_seconds=0.3))
    await store.close()
    again = SqliteLightningStore(tmp_path / "store.db")
    async with asyncio.timeout(PATIENCE):
        (ended,) = await again.wait_for_rollouts(rollout_ids=[made.rollout_id])
    assert ended.status == "failed"
    await again.close()


async def test_two_stores_on_one_file_end_an_attempt_once(tmp_path: Path) -> None:
    one, two = SqliteLightningStore(tmp_path / "store.db"), SqliteLightningStore(tmp_path / "store.db")
    config = RolloutConfig(timeout_seconds=0.1, max_attempts=2, retry_condition=["timeout"])
    for store in (one, two):
        await store.enqueue_rollout(1, config=config)
        assert await store.dequeue_rollout() is not None
    seconds: list[AttemptedRollout] = []
    async with asyncio.timeout(PATIENCE):
        while len(seconds) < 2:  # either may end both, and tells only its own waiters
            seconds += await one.dequeue_many_rollouts(limit=9, wait=0.01)
    assert [claim.attempt.sequence_id for claim in seconds] == [2, 2]
    assert len({claim.rollout_id for claim in seconds}) == 2
    await one.close()
    await two.close()
