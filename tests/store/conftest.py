"""A PostgreSQL for the tests that want one, started when the first of them runs."""

import asyncio
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from agentlightning._internal.ids import generate_id
from agentlightning.store.postgres import PostgresLightningStore

OpenPostgres: TypeAlias = Callable[[], PostgresLightningStore]


@contextmanager
def running_postgres() -> Generator[Any]:
    """A PostgreSQL of its own, as `pgserver` knows it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pgserver finds no XDG_RUNTIME_DIR where nobody is logged in
        import pgserver

        folder = Path(tempfile.mkdtemp(prefix="agl-pg-"))  # short, for its socket lies there
        server = pgserver.get_server(folder, cleanup_mode="stop")
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # it need not survive a power cut
        server.psql(f"ALTER SYSTEM SET {setting} = off")
    server.psql("SELECT pg_reload_conf()")
    yield server
    server.cleanup()
    shutil.rmtree(folder)


def stop_postgres(server: Any) -> None:
    """Stop it; `server.ensure_postgres_running()` starts it again."""
    from pgserver._commands import pg_ctl

    pg_ctl(["-w", "-m", "fast", "stop"], pgdata=server.pgdata, user=server.system_user)


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """Where a PostgreSQL runs that only these tests use; each takes a namespace of its own."""
    with running_postgres() as server:
        yield server.get_uri()


@pytest.fixture
def postgres_namespace(postgres_dsn: str) -> Iterator[str]:
    """A namespace that is dropped afterwards."""
    namespace = f"test_{generate_id(12)}"
    yield namespace

    async def drop() -> None:
        connection = await asyncpg.connect(postgres_dsn)
        await connection.execute(f'SET client_min_messages = warning; DROP SCHEMA IF EXISTS "{namespace}" CASCADE')
        await connection.close()

    asyncio.run(drop())


@pytest.fixture
async def open_postgres(postgres_dsn: str, postgres_namespace: str) -> AsyncIterator[OpenPostgres]:
    """Opens stores in one namespace, each call another, and closes them in the end."""
    opened: list[PostgresLightningStore] = []

    def open_one() -> PostgresLightningStore:
        opened.append(PostgresLightningStore(postgres_dsn, namespace=postgres_namespace))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
def postgres(open_postgres: OpenPostgres) -> PostgresLightningStore:
    """A store in a namespace of its own."""
    return open_postgres()
