"""Connections that the database ends: what can be done again is, and nothing is done twice."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from agentlightning.store.postgres import PostgresLightningStore
from agentlightning.store.postgres.presence import Presence
from agentlightning.store.postgres.transaction import UnknownOutcome
from agentlightning.store.sql.transaction import Transaction
from agentlightning.store.testing.suite import soon
from agentlightning.types import RolloutConfig
from tests.store.conftest import OpenPostgres, running_postgres, stop_postgres

PATIENCE = 20.0


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


async def end_connections(database: asyncpg.Connection) -> int:
    """End all connections of stores; returns how many there were."""
    return await database.fetchval(
        "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'agentlightning'"
    )


async def test_idle_connections_are_replaced(postgres: PostgresLightningStore, database: asyncpg.Connection) -> None:
    for i in range(5):
        await asyncio.gather(*(postgres.enqueue_rollout(i) for _ in range(3)))
        assert await end_connections(database) >= 2
    assert (await postgres.statistics()).get("total_rollouts") == 15


async def test_what_is_committed_while_a_store_cannot_listen_is_found_afterwards(
    open_postgres: OpenPostgres, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = open_postgres(), open_postgres()
    claim = await there.start_rollout(1)
    waiting = asyncio.create_task(soon(here.wait_for_rollouts(rollout_ids=[claim.rollout_id])))
    claiming = asyncio.create_task(here.dequeue_rollout(wait=PATIENCE))
    feed = asyncio.create_task(here.read_finished_rollouts(wait=PATIENCE))
    await asyncio.wait({waiting, claiming, feed}, timeout=0.1)
    gate = threading.Event()
    open_at_once = Presence.open

    async def open_late(presence: Presence) -> None:
        await asyncio.to_thread(gate.wait, PATIENCE)
        await open_at_once(presence)

    monkeypatch.setattr(Presence, "open", open_late)
    await end_connections(database)
    await there.update_rollout(claim.rollout_id, status="succeeded")
    await there.enqueue_rollout(2, config=RolloutConfig(timeout_seconds=0.1))
    await asyncio.wait({waiting, claiming, feed}, timeout=0.1)
    assert not waiting.done()
    assert not claiming.done()
    gate.set()
    assert len(await waiting) == 1
    assert len((await feed).items) == 1
    assert await claiming is not None


async def test_deadlines_are_kept_after_a_loss(postgres: PostgresLightningStore, database: asyncpg.Connection) -> None:
    await postgres.enqueue_rollout(1, config=RolloutConfig(timeout_seconds=0.2))
    claim = await postgres.dequeue_rollout()
    assert claim is not None
    await end_connections(database)
    (ended,) = await soon(postgres.wait_for_rollouts(rollout_ids=[claim.rollout_id]))
    assert ended.status == "failed"


async def test_an_operation_is_done_again_where_it_surely_was_not_committed(
    postgres: PostgresLightningStore, postgres_dsn: str
) -> None:
    tries = 0

    async def break_twice(tx: Transaction) -> int:
        nonlocal tries
        tries += 1
        await tx.execute("INSERT INTO workers (worker_id) VALUES (?)", (f"w{tries}",))
        if tries < 3:
            connection = await asyncpg.connect(postgres_dsn)  # in the store's own loop
            await end_connections(connection)
            await connection.close()
        await tx.execute("UPDATE workers SET status = 'idle'")
        return tries

    assert await postgres.write(break_twice) == 3
    assert [worker.worker_id for worker in await postgres.query_workers()] == ["w3"]


async def test_a_database_that_was_away_is_found_again_and_its_absence_does_not_count() -> None:
    with running_postgres() as server:
        store = PostgresLightningStore(server.get_uri())
        lifetime = 2.0
        await store.enqueue_rollout(1, config=RolloutConfig(timeout_seconds=lifetime))
        claim = await store.dequeue_rollout()
        assert claim is not None
        waiting = asyncio.create_task(soon(store.wait_for_rollouts(rollout_ids=[claim.rollout_id])))
        await asyncio.to_thread(stop_postgres, server)
        writing = [asyncio.create_task(store.enqueue_rollout(i)) for i in range(5)]
        await asyncio.wait(writing, timeout=lifetime)
        assert not any(task.done() for task in writing)
        back = time.time()
        server.ensure_postgres_running()
        await asyncio.gather(*writing)
        (ended,) = await waiting
        assert ended.status == "failed"
        assert ended.end_time is not None
        assert ended.end_time >= back + lifetime
        assert (await store.statistics()).get("total_rollouts") == 6
        await store.close()


async def test_acknowledged_writes_stay_and_claims_are_unique_while_connections_end(
    open_postgres: OpenPostgres, database: asyncpg.Connection
) -> None:
    stores = [open_postgres(), open_postgres()]
    made: list[str] = []
    claimed: list[str] = []
    unknown = 0
    stop = asyncio.Event()

    async def work(store: PostgresLightningStore) -> None:
        nonlocal unknown
        while not stop.is_set():
            try:
                made.append((await store.enqueue_rollout(1)).rollout_id)
                if claim := await store.dequeue_rollout():
                    claimed.append(claim.rollout_id)
            except UnknownOutcome:
                unknown += 1

    working = [asyncio.create_task(work(store)) for store in stores for _ in range(4)]
    for _ in range(10):
        before = len(claimed)
        async with asyncio.timeout(PATIENCE):
            while len(claimed) < before + 10:  # noqa: ASYNC110  # work that is done has no event
                await asyncio.sleep(0.005)
        await end_connections(database)
    stop.set()
    await asyncio.gather(*working)
    there = {rollout.rollout_id for rollout in await stores[0].query_rollouts()}
    assert set(made) <= there
    assert len(there) - len(made) <= unknown
    assert len(claimed) == len(set(claimed))
