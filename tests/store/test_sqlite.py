"""What is special to the SQLite stores: the file, the lanes, and claims that nobody heard of."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import sqlite3
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import ConfigurationError, InvalidValue, StoreClosed, StoreError
from agentlightning.store import InMemoryLightningStore, LightningStore, SqliteLightningStore
from agentlightning.store.opening import open_store
from agentlightning.store.sql.transaction import Row, Transaction
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest, RolloutConfig, Span

PATIENCE = 10.0


@pytest.fixture
async def memory() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


@pytest.fixture
def threads_of_stores() -> Callable[[], list[threading.Thread]]:
    """The threads of this test's stores: one that an earlier test forgot may not be collected yet."""
    others = set(threading.enumerate())
    return lambda: [thread for thread in {*threading.enumerate()} - others if thread.name.startswith("agl-store")]


def block_loop_behind_a_commit(store: LightningStore, input: str = "other") -> None:
    """Keep this loop from running until all that it asked for is committed; another thread's rollout follows it."""
    thread = threading.Thread(target=lambda: asyncio.run(store.enqueue_rollout(input)))
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # conditions of other threads have no event
            await asyncio.sleep(0.005)


# -- the file ------------------------------------------------------------------------------------------------------


async def test_a_file_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    resources = await store.add_resources({})
    queued = await store.enqueue_rollout({"x": 1}, config=RolloutConfig(max_attempts=2))
    started = await store.start_rollout(2, worker_id="w")
    span = await store.add_span(
        Span.from_attributes(attributes={}, rollout_id=started.rollout_id, attempt_id=started.attempt.attempt_id)
    )
    rollouts, workers = await store.query_rollouts(), await store.query_workers()
    await store.close()
    again = SqliteLightningStore(path)
    assert await again.query_rollouts() == rollouts
    assert await again.query_workers() == workers
    assert list(await again.query_spans(started.rollout_id)) == [span]
    assert await again.get_latest_resources() == resources
    claim = await again.dequeue_rollout()
    assert claim is not None
    assert claim.rollout_id == queued.rollout_id
    await again.close()


async def test_a_file_from_a_newer_program_is_refused_untouched(
    tmp_path: Path, threads_of_stores: Callable[[], list[threading.Thread]]
) -> None:
    path = tmp_path / "store.db"
    await SqliteLightningStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="version 99"):
        SqliteLightningStore(path)
    assert threads_of_stores() == []


def test_a_place_that_cannot_hold_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database" * 100)
    for path in (tmp_path / "text", tmp_path, tmp_path / "missing" / "store.db"):
        with pytest.raises(ConfigurationError, match=str(path)):
            SqliteLightningStore(path)
    with pytest.raises(ConfigurationError, match="InMemoryLightningStore"):
        SqliteLightningStore(":memory:")
    with pytest.raises(ConfigurationError, match="synchronous"):
        SqliteLightningStore(tmp_path / "store.db", synchronous="MAYBE")  # type: ignore[arg-type]


async def test_a_file_can_be_read_without_being_changed(tmp_path: Path) -> None:
    path = tmp_path / "a store?mode=memory.db"
    writing = SqliteLightningStore(path)
    made = await writing.start_rollout(1, config=RolloutConfig(timeout_seconds=60))

    async def lease(tx: Transaction) -> list[Row]:
        return await tx.fetch("SELECT lease_start, timeout_at FROM attempts")

    before = await writing.read(lease)
    reading = SqliteLightningStore(path, read_only=True)
    assert await reading.get_rollout_by_id(made.rollout_id) == made
    later = await writing.enqueue_rollout(2)
    assert await reading.get_rollout_by_id(later.rollout_id) == later
    with pytest.raises(StoreError, match="without read_only"):
        await reading.enqueue_rollout(3)
    assert await reading.read(lease) == before
    await writing.close()
    await reading.close()
    content = path.read_bytes()
    alone = SqliteLightningStore(path, read_only=True)
    assert (await alone.query_rollouts()).total == 2
    await alone.close()
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208  # no await here


def test_the_database_of_another_program_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE invoices (x)")
    connection.commit()
    connection.close()
    content = path.read_bytes()
    for how in ({}, {"read_only": True}):
        with pytest.raises(ConfigurationError, match="another program"):
            SqliteLightningStore(path, **how)
    with pytest.raises(ConfigurationError, match="another program"):
        open_store(path, create=True)
    assert path.read_bytes() == content
    assert [made.name for made in tmp_path.iterdir()] == ["other.db"]


def test_only_a_store_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "text").write_text("this is no database" * 100)
    for name, problem in (("empty.db", "holds no store"), ("text", "cannot read"), ("missing.db", "cannot read")):
        with pytest.raises(ConfigurationError, match=problem):
            SqliteLightningStore(tmp_path / name, read_only=True)
    assert not (tmp_path / "missing.db").exists()


async def test_two_stores_on_one_file_see_each_other(tmp_path: Path) -> None:
    one, two = SqliteLightningStore(tmp_path / "store.db"), SqliteLightningStore(tmp_path / "store.db")
    made = await asyncio.gather(*(store.enqueue_rollout(i) for i in range(20) for store in (one, two)))
    claims = await asyncio.gather(*(store.dequeue_rollout() for _ in range(20) for store in (one, two)))
    assert {claim.rollout_id for claim in claims if claim} == {rollout.rollout_id for rollout in made}
    await one.close()
    await two.close()


async def test_a_reader_sees_what_was_acknowledged(tmp_path: Path) -> None:
    store = SqliteLightningStore(tmp_path / "store.db")
    for i in range(100):
        rollout = await store.enqueue_rollout(i)
        assert await store.get_rollout_by_id(rollout.rollout_id) == rollout
    await store.close()


async def test_queries_use_the_indexes(tmp_path: Path) -> None:
    store = SqliteLightningStore(tmp_path / "store.db")
    statements: list[str] = []

    async def explain(tx: Transaction) -> list[str]:
        return [row[3] for sql in statements for row in await tx.fetch(f"EXPLAIN QUERY PLAN {sql}")]

    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(10)])
    statements.append(
        "SELECT * FROM rollouts INDEXED BY queue WHERE status IN ('queuing', 'requeuing') ORDER BY queue_position"
    )
    statements.append("SELECT * FROM rollouts WHERE status = 'queuing' ORDER BY start_time, position")
    statements.append("SELECT * FROM spans WHERE rollout_id = 'x' ORDER BY sequence_id, start_time_ns, position")
    plan = await store.read(explain)
    assert not [step for step in plan if "TEMP B-TREE" in step or step == "SCAN rollouts"]
    await store.close()


# -- group commit --------------------------------------------------------------------------------------------------


async def test_an_error_undoes_its_own_operation_only(memory: InMemoryLightningStore) -> None:
    async def enqueue_then_fail(tx: Transaction) -> None:
        await tx.execute("INSERT INTO workers (worker_id) VALUES ('ghost')")
        raise InvalidValue("on purpose")

    outcomes = await asyncio.gather(
        memory.update_worker("before"),
        memory.write(enqueue_then_fail),
        memory.update_worker("after"),
        memory.write(lambda tx: tx.execute("INSERT INTO nowhere VALUES (1)")),
        memory.update_worker("last"),
        return_exceptions=True,
    )
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Worker",
        "InvalidValue",
        "Worker",
        "StoreError",
        "Worker",
    ]
    assert [worker.worker_id for worker in await memory.query_workers()] == ["before", "after", "last"]


async def test_a_failed_commit_fails_everybody_in_the_group(memory: InMemoryLightningStore) -> None:
    async def break_transaction(tx: Transaction) -> None:
        await tx.execute("ROLLBACK")

    outcomes = await asyncio.gather(
        memory.update_worker("a"), memory.write(break_transaction), memory.update_worker("b"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [StoreError] * 3
    assert (await memory.query_workers()).total == 0
    assert (await memory.update_worker("c")).worker_id == "c"


async def test_one_callers_operations_keep_their_order(memory: InMemoryLightningStore) -> None:
    rollout = await memory.enqueue_rollout(0)
    await asyncio.gather(*(memory.update_rollout(rollout.rollout_id, input=i) for i in range(100)))
    read = await memory.get_rollout_by_id(rollout.rollout_id)
    assert read is not None
    assert read.input == 99


async def test_an_operation_whose_caller_left_before_its_turn_is_skipped(memory: InMemoryLightningStore) -> None:
    gate = threading.Event()

    async def hold(tx: Transaction) -> None:
        gate.wait(PATIENCE)

    holding = asyncio.create_task(memory.write(hold))
    leaving = asyncio.create_task(memory.enqueue_rollout("never"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving}, timeout=PATIENCE)
    gate.set()
    await holding
    assert leaving.cancelled()
    assert (await memory.query_rollouts()).total == 0


# -- claims nobody heard of ----------------------------------------------------------------------------------------


async def test_a_claim_cancelled_after_its_commit_leaves_the_store_as_it_was(memory: InMemoryLightningStore) -> None:
    memory._writes._here = None  # what runs in its caller's thread is heard of at once
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    first = await memory.enqueue_rollout(1, config=config)
    for sequence_id in (1, 2):
        before = list(await memory.query_rollouts(rollout_id_in=[first.rollout_id]))
        claiming = asyncio.create_task(memory.dequeue_rollout("w"))
        await asyncio.sleep(0)
        block_loop_behind_a_commit(memory)
        claiming.cancel()
        await asyncio.wait({claiming}, timeout=PATIENCE)
        assert claiming.cancelled()
        assert list(await memory.query_rollouts(rollout_id_in=[first.rollout_id])) == before
        worker = await memory.get_worker_by_id("w")
        assert worker is not None
        assert (worker.status, worker.current_attempt_id) == ("idle", None)
        claim = await memory.dequeue_rollout("w")
        assert claim is not None
        assert (claim.rollout_id, claim.attempt.sequence_id) == (first.rollout_id, sequence_id)
        for other in await memory.query_rollouts(status_in=["queuing"]):
            await memory.update_rollout(other.rollout_id, status="cancelled")
        if sequence_id == 1:
            await memory.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="failed")


async def test_claims_of_a_loop_that_died_go_back_to_the_queue(memory: InMemoryLightningStore) -> None:
    made = await memory.enqueue_rollout(1)
    held, gate = threading.Event(), threading.Event()

    async def hold(tx: Transaction) -> None:
        held.set()
        gate.wait(PATIENCE)

    holding = asyncio.create_task(memory.write(hold))
    assert await asyncio.to_thread(held.wait, PATIENCE)

    def die_claiming() -> None:
        loop = asyncio.new_event_loop()
        claiming = loop.create_task(memory.dequeue_rollout())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        claiming._log_destroy_pending = False  # type: ignore[attr-defined]  # the loop dies on purpose

    thread = threading.Thread(target=die_claiming)
    thread.start()
    thread.join(PATIENCE)
    gate.set()
    await holding
    claim = await memory.dequeue_rollout(wait=PATIENCE)
    assert claim is not None
    assert (claim.rollout_id, claim.attempt.sequence_id) == (made.rollout_id, 1)


# -- waiting -------------------------------------------------------------------------------------------------------


async def test_no_wait_leaves_anything_registered(memory: InMemoryLightningStore) -> None:
    made = await memory.enqueue_rollout(1)
    claim = await memory.dequeue_rollout()
    assert claim is not None
    ids = [made.rollout_id, "ro-unknown"]
    assert await memory.wait_for_rollouts(rollout_ids=ids, timeout=0.01) == []
    waits = [
        asyncio.create_task(memory.wait_for_rollouts(rollout_ids=ids)),
        asyncio.create_task(memory.wait_for_rollouts(rollout_ids=ids, timeout=60)),
        asyncio.create_task(memory.dequeue_rollout(wait=60)),
    ]
    await until(lambda: memory._signals.waiting == 3)  # two ids and one worker
    waits[0].cancel()
    waits[2].cancel()
    await memory.update_rollout(made.rollout_id, status="succeeded")
    await asyncio.wait(waits, timeout=PATIENCE)
    assert memory._signals.waiting == 0
    assert [rollout.rollout_id for rollout in waits[1].result()] == [made.rollout_id]


async def test_a_waiting_worker_that_leaves_passes_its_call_on(memory: InMemoryLightningStore) -> None:
    leaving = asyncio.create_task(memory.dequeue_rollout(wait=60))
    await until(lambda: memory._signals.waiting == 1)
    staying = asyncio.create_task(memory.dequeue_rollout(wait=60))
    await until(lambda: memory._signals.waiting == 2)
    block_loop_behind_a_commit(memory, "work")  # the first is called for it, and cancelled before it can look
    leaving.cancel()
    claim = await asyncio.wait_for(staying, PATIENCE)
    assert leaving.cancelled()
    assert claim is not None
    assert claim.input == "work"


@contextmanager
def standing_still(
    store: InMemoryLightningStore, waiting: Coroutine[Any, Any, Any], number: int
) -> Generator[asyncio.AbstractEventLoop]:
    """A loop in which somebody waits, as the last of a number, and which runs no more."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(waiting)
    registered = until(lambda: store._signals.waiting == number)
    thread = threading.Thread(target=lambda: loop.run_until_complete(registered))
    thread.start()
    thread.join(PATIENCE)
    yield loop
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # the loop dies on purpose


@pytest.mark.parametrize("closed", [False, True])
async def test_a_waiting_worker_whose_loop_stands_still_takes_nobody_elses_call(
    memory: InMemoryLightningStore, closed: bool
) -> None:
    with standing_still(memory, memory.dequeue_rollout(wait=60), 1) as loop:
        if closed:
            loop.close()
        waiting = asyncio.create_task(memory.dequeue_rollout(wait=60))
        await until(lambda: memory._signals.waiting == 2)
        made = await memory.enqueue_rollout(1)
        claim = await asyncio.wait_for(waiting, PATIENCE)
        assert claim is not None
        assert claim.rollout_id == made.rollout_id
        assert memory._signals.waiting == 0


async def test_who_waited_in_a_loop_that_is_closed_is_forgotten(memory: InMemoryLightningStore) -> None:
    made = await memory.start_rollout(1)
    ids = [made.rollout_id, "ro-unknown"]
    with (
        standing_still(memory, memory.wait_for_rollouts(rollout_ids=[made.rollout_id]), 1) as one,
        standing_still(memory, memory.wait_for_rollouts(rollout_ids=ids), 2),  # of two ids
        standing_still(memory, memory.read_finished_rollouts(wait=60), 3) as two,
    ):
        one.close()
        two.close()
        await memory.update_rollout(made.rollout_id, status="succeeded")
        assert memory._signals.waiting == 2  # the ids of the one that may go on


async def test_thousands_of_rollouts_wake_their_waiter_once(memory: InMemoryLightningStore) -> None:
    made = await memory.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(3_000)])
    ids = [rollout.rollout_id for rollout in made]
    reads = 0
    read = memory.read

    async def counting_read(operation):  # type: ignore[no-untyped-def]
        nonlocal reads
        reads += 1
        return await read(operation)

    memory.read = counting_read  # type: ignore[method-assign]
    waiting = asyncio.create_task(memory.wait_for_rollouts(rollout_ids=ids))
    await until(lambda: reads == 1)
    for first in range(0, len(ids), 500):
        await asyncio.gather(
            *(memory.update_rollout(rollout_id, status="succeeded") for rollout_id in ids[first : first + 500])
        )
    assert len(await asyncio.wait_for(waiting, PATIENCE)) == 3_000
    assert reads <= 3


# -- other processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_a_child_process_is_told_whose_store_it_is(tmp_path: Path, kind: str) -> None:
    store = SqliteLightningStore(tmp_path / "store.db") if kind == "file" else InMemoryLightningStore()
    await store.enqueue_rollout(1)

    async def use() -> None:
        for operation in (store.enqueue_rollout, store.query_rollouts, store.get_rollout_by_id):
            with pytest.raises(StoreError, match=f"belongs to process {os.getppid()}: serve it"):
                await asyncio.wait_for(operation("x") if operation != store.query_rollouts else operation(), PATIENCE)
        await store.close()

    def child() -> None:
        asyncio.run(use())

    process = multiprocessing.get_context("fork").Process(target=child)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what this is about
        process.start()
    await asyncio.to_thread(process.join, 3 * PATIENCE)
    assert process.exitcode == 0
    await store.enqueue_rollout(2)
    assert (await store.query_rollouts()).total == 2
    await store.close()


async def test_a_store_that_is_pickled_says_what_to_do(memory: InMemoryLightningStore) -> None:
    with pytest.raises(TypeError, match="pickle the LightningStoreServer"):
        pickle.dumps(memory)


# -- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_closing_ends_the_threads(
    tmp_path: Path, kind: str, threads_of_stores: Callable[[], list[threading.Thread]]
) -> None:
    store = SqliteLightningStore(tmp_path / "store.db") if kind == "file" else InMemoryLightningStore()
    await store.enqueue_rollout(1)
    assert threads_of_stores() != []
    await asyncio.gather(store.close(), store.close())
    assert threads_of_stores() == []


async def test_closing_that_is_cancelled_closes_all_the_same(
    tmp_path: Path, threads_of_stores: Callable[[], list[threading.Thread]]
) -> None:
    store = SqliteLightningStore(tmp_path / "store.db")
    gate = threading.Event()

    async def hold(tx: Transaction) -> None:
        gate.wait(PATIENCE)

    holding = [asyncio.create_task(store.write(hold)), asyncio.create_task(store.read(hold))]
    waiting = asyncio.create_task(store.dequeue_rollout(wait=PATIENCE))
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing}, timeout=PATIENCE)
    assert closing.cancelled()
    gate.set()
    await asyncio.gather(*holding)
    with pytest.raises(StoreClosed):
        await waiting
    await until(lambda: threads_of_stores() == [])


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_claim_that_a_standing_loop_never_takes_goes_back(tmp_path: Path, turns: int) -> None:
    """A notebook's loop stands still between two cells, at any point of the claim's way to its caller."""
    store = SqliteLightningStore(tmp_path / "store.db")
    made = await store.enqueue_rollout(1)

    def claim_in_a_loop_that_stops() -> tuple[asyncio.AbstractEventLoop, asyncio.Task[AttemptedRollout | None]]:
        loop = asyncio.new_event_loop()
        claiming = loop.create_task(store.dequeue_rollout())

        def stop_after(turns: int) -> None:
            if turns:
                loop.call_soon(stop_after, turns - 1)
            else:
                loop.stop()

        loop.call_soon(block_loop_behind_a_commit, store)
        loop.call_soon(stop_after, turns)
        loop.run_forever()
        return loop, claiming

    loop, claiming = await asyncio.to_thread(claim_in_a_loop_that_stops)
    began = time.monotonic()
    await store.close()
    assert time.monotonic() - began < PATIENCE / 2  # nobody waits for a loop that does not run
    again = SqliteLightningStore(tmp_path / "store.db")
    back = await again.dequeue_rollout()
    assert back is not None
    assert (back.rollout_id == made.rollout_id) == (not claiming.done())
    await again.close()
    if not claiming.done():
        with pytest.raises(StoreClosed):
            await asyncio.to_thread(loop.run_until_complete, claiming)
    loop.close()


async def test_a_forgotten_store_ends_its_threads(
    tmp_path: Path, threads_of_stores: Callable[[], list[threading.Thread]]
) -> None:
    store = SqliteLightningStore(tmp_path / "store.db")
    await store.enqueue_rollout(1)
    del store
    gc.collect()
    await until(lambda: threads_of_stores() == [])


async def test_closing_undoes_claims_that_nobody_heard_of(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteLightningStore(path)
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(10)])
    claiming = [asyncio.create_task(store.dequeue_rollout()) for _ in range(10)]
    await asyncio.sleep(0.001)
    for task in claiming:
        task.cancel()
    await asyncio.wait(claiming, timeout=PATIENCE)
    await store.close()
    heard = [task.result() for task in claiming if not task.cancelled()]
    again = SqliteLightningStore(path)
    assert len(await again.dequeue_many_rollouts(limit=100)) == 10 - len(heard)
    await again.close()


async def test_closed_store_is_one_file(tmp_path: Path) -> None:
    for number in range(30):  # connections that close at once leave the log behind now and then
        store = SqliteLightningStore(tmp_path / f"{number}.db")
        await store.enqueue_rollout({"number": number})
        await store.query_rollouts()
        await store.close()
    assert {name for name in os.listdir(tmp_path) if not name.endswith(".db")} == set()  # noqa: PTH208  # no await here
