"""The store's place in a database, its thread, and its end."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from agentlightning._internal.ids import generate_id
from agentlightning.errors import ConfigurationError, InvalidValue, StoreError, StoreUnreachable
from agentlightning.store.postgres import PostgresLightningStore
from agentlightning.store.schema import VERSION
from agentlightning.types import RolloutConfig
from tests.store.conftest import OpenPostgres

PATIENCE = 10.0


def threads_of_stores() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "agl-store-postgres"]


async def in_database(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


# -- the place -----------------------------------------------------------------------------------------------------


@pytest.fixture
def other_namespace(postgres_dsn: str) -> Iterator[str]:
    name = f"Test-{generate_id(8)}"
    yield name
    asyncio.run(in_database(postgres_dsn, "SET client_min_messages = warning", f'DROP SCHEMA "{name}" CASCADE'))


async def test_namespaces_know_nothing_of_each_other(
    postgres: PostgresLightningStore, postgres_dsn: str, other_namespace: str
) -> None:
    other = PostgresLightningStore(postgres_dsn, namespace=other_namespace)
    waiting = asyncio.create_task(other.dequeue_rollout(wait=0.3))
    await asyncio.sleep(0)
    rollout = await postgres.enqueue_rollout(1, config=RolloutConfig(timeout_seconds=0.1))
    assert await waiting is None
    assert await other.get_rollout_by_id(rollout.rollout_id) is None
    await other.enqueue_rollout(2)
    assert (await postgres.statistics()).get("total_rollouts") == 1
    await other.close()


def test_stores_that_are_first_at_the_same_time_make_one_set_of_tables(
    postgres_dsn: str, postgres_namespace: str
) -> None:
    def open_and_write(number: int) -> None:
        async def write() -> None:
            store = PostgresLightningStore(postgres_dsn, namespace=postgres_namespace)
            await store.enqueue_rollout(number)
            await store.close()

        asyncio.run(write())

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(open_and_write, range(6)))
    store = PostgresLightningStore(postgres_dsn, namespace=postgres_namespace)
    assert len(asyncio.run(_all(store))) == 6


async def _all(store: PostgresLightningStore) -> list[object]:
    rollouts = list(await store.query_rollouts())
    await store.close()
    return rollouts  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("version", "says"), [(99, f"version 99, this program knows {VERSION}"), (1, "version 1, .*only files can be")]
)
async def test_tables_of_another_version_are_refused(
    version: int, says: str, postgres: PostgresLightningStore, postgres_dsn: str, postgres_namespace: str
) -> None:
    await postgres.close()
    table = f'"{postgres_namespace}".agentlightning_version'
    await in_database(postgres_dsn, f"UPDATE {table} SET version = {version}")
    with pytest.raises(ConfigurationError, match=says):
        PostgresLightningStore(postgres_dsn, namespace=postgres_namespace)
    assert threads_of_stores() == []


async def test_tables_of_somebody_else_are_left_alone(postgres_dsn: str, postgres_namespace: str) -> None:
    await in_database(
        postgres_dsn,
        f'CREATE SCHEMA "{postgres_namespace}"',
        f'CREATE TABLE "{postgres_namespace}".attempts (theirs TEXT)',
    )
    with pytest.raises(ConfigurationError, match="attempts"):
        PostgresLightningStore(postgres_dsn, namespace=postgres_namespace)
    await in_database(postgres_dsn, f'SELECT theirs FROM "{postgres_namespace}".attempts')


@pytest.mark.parametrize("namespace", ["", "a b", "pg_mine", 'a"b', "1a", "a" * 49, "ä"])
def test_a_name_that_is_no_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        PostgresLightningStore("postgresql://nowhere", namespace=namespace)


def test_a_database_that_cannot_be_used_is_named_without_its_password(postgres_dsn: str) -> None:
    for error, dsn in (
        (StoreUnreachable, "postgresql://me:secret@127.0.0.1:1/db"),
        (ConfigurationError, postgres_dsn.replace("postgres:@/postgres", "postgres:secret@/missing")),
        (ConfigurationError, "http://me:secret@127.0.0.1/db"),
        (ConfigurationError, "postgresql://me:secret@127.0.0.1:port/db"),
    ):
        with pytest.raises(error) as raised:
            PostgresLightningStore(dsn)
        assert "secret" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="connections"):
        PostgresLightningStore(postgres_dsn, connections=0)
    assert threads_of_stores() == []


def test_without_asyncpg_the_extra_is_named() -> None:
    script = """
import sys
sys.modules["asyncpg"] = None
import agentlightning.store
try:
    agentlightning.store.PostgresLightningStore
except ImportError as error:
    assert type(error).__name__ == "MissingExtra", error
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ".[postgres]" in done.stdout


async def test_a_store_pickles_as_its_address(postgres: PostgresLightningStore) -> None:
    rollout = await postgres.enqueue_rollout(1)
    again: PostgresLightningStore = pickle.loads(pickle.dumps(postgres))
    assert await again.get_rollout_by_id(rollout.rollout_id) == rollout
    assert again.capabilities.get("zero_copy")
    await again.close()


# -- what PostgreSQL is strict about -------------------------------------------------------------------------------


async def test_failures_of_the_database_keep_the_store_alive(postgres: PostgresLightningStore) -> None:
    with pytest.raises(StoreError, match="UndefinedTable"):
        await postgres.write(lambda tx: tx.execute("INSERT INTO nowhere VALUES (1)"))
    with pytest.raises(StoreError, match="expected str"):
        await postgres.write(lambda tx: tx.fetch("SELECT * FROM workers WHERE worker_id = ?", (5,)))
    with pytest.raises(InvalidValue):
        await postgres.read(lambda tx: tx.fetch("SELECT * FROM workers WHERE worker_id = ?", ("\0",)))
    with pytest.raises(StoreError, match="ReadOnly"):
        await postgres.read(lambda tx: tx.execute("DELETE FROM workers"))
    assert (await postgres.update_worker("w")).worker_id == "w"


async def test_an_operation_that_raises_leaves_nothing(postgres: PostgresLightningStore) -> None:
    async def write_then_fail(tx: object) -> None:
        await tx.execute("INSERT INTO workers (worker_id) VALUES ('ghost')")  # type: ignore[attr-defined]
        raise InvalidValue("on purpose")

    with pytest.raises(InvalidValue, match="on purpose"):
        await postgres.write(write_then_fail)
    assert len(await postgres.query_workers()) == 0


async def test_texts_sort_by_their_bytes(postgres: PostgresLightningStore) -> None:
    names = ["b", "a", "B", "ä", "_", "😀", "￿"]
    for name in names:
        await postgres.update_worker(name)
    found = await postgres.query_workers(sort_by="worker_id")
    assert [worker.worker_id for worker in found] == sorted(names, key=str.encode)


async def test_one_connection_is_enough(postgres_dsn: str, postgres_namespace: str) -> None:
    store = PostgresLightningStore(postgres_dsn, namespace=postgres_namespace, connections=1)
    made = await asyncio.gather(*(store.enqueue_rollout(i) for i in range(20)))
    claims = await asyncio.gather(*(store.dequeue_rollout(wait=PATIENCE) for _ in range(20)))
    assert {claim.rollout_id for claim in claims if claim} == {rollout.rollout_id for rollout in made}
    await store.close()


async def test_a_child_process_is_told_whose_store_it_is(postgres: PostgresLightningStore) -> None:
    async def use() -> None:
        with pytest.raises(StoreError, match=f"belongs to process {os.getppid()}: serve it"):
            await asyncio.wait_for(postgres.enqueue_rollout(1), PATIENCE)
        await postgres.close()

    process = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(use()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what this is about
        process.start()
    await asyncio.to_thread(process.join, 3 * PATIENCE)
    assert process.exitcode == 0
    await postgres.enqueue_rollout(2)
    assert (await postgres.query_rollouts()).total == 1


# -- its end -------------------------------------------------------------------------------------------------------


async def test_a_forgotten_store_ends_its_thread(postgres_dsn: str, postgres_namespace: str) -> None:
    store = PostgresLightningStore(postgres_dsn, namespace=postgres_namespace)
    await store.enqueue_rollout(1)
    del store
    gc.collect()
    async with asyncio.timeout(PATIENCE):
        while threads_of_stores():  # noqa: ASYNC110  # the end of a thread has no event
            await asyncio.sleep(0.01)


async def test_a_closed_store_leaves_no_connection(open_postgres: OpenPostgres, postgres_dsn: str) -> None:
    store = open_postgres()
    await asyncio.gather(*(store.enqueue_rollout(i) for i in range(10)))
    began = time.monotonic()
    await store.close()
    assert time.monotonic() - began < PATIENCE / 2
    connection = await asyncpg.connect(postgres_dsn)
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval(  # noqa: ASYNC110  # nor has that of a connection
            "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'agentlightning'"
        ):
            await asyncio.sleep(0.01)
    await connection.close()


@pytest.mark.parametrize("waiting", [False, True])
def test_a_program_that_never_closes_its_store_ends_in_silence(
    postgres_dsn: str, postgres_namespace: str, waiting: bool
) -> None:
    script = f"""
import asyncio
from agentlightning.store.postgres import PostgresLightningStore
store = PostgresLightningStore({postgres_dsn!r}, namespace={postgres_namespace!r})
async def main():
    await asyncio.gather(*(store.enqueue_rollout(i) for i in range(10)))
    if {waiting}:
        asyncio.ensure_future(store.wait_for_rollouts(rollout_ids=["ro-x"]))
        await asyncio.sleep(0)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
