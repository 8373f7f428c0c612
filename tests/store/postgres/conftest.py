"""Stores on PostgreSQL, each test in a namespace of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import asyncpg
import pytest

from agentlightning._internal.ids import generate_id
from agentlightning.store.postgres import PostgresLightningStore


@pytest.fixture
def namespace(postgres_dsn: str) -> Iterator[str]:
    """A namespace that is dropped afterwards."""
    name = f"test_{generate_id(12)}"
    yield name

    async def drop() -> None:
        connection = await asyncpg.connect(postgres_dsn)
        await connection.execute(f'SET client_min_messages = warning; DROP SCHEMA IF EXISTS "{name}" CASCADE')
        await connection.close()

    asyncio.run(drop())


@pytest.fixture
async def open_store(postgres_dsn: str, namespace: str) -> AsyncIterator[Callable[..., PostgresLightningStore]]:
    """Opens stores in the namespace, and closes them in the end."""
    opened: list[PostgresLightningStore] = []

    def open_one(**options: object) -> PostgresLightningStore:
        opened.append(PostgresLightningStore(postgres_dsn, namespace=namespace, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
def store(open_store: Callable[..., PostgresLightningStore]) -> PostgresLightningStore:
    """A store in the namespace."""
    return open_store()
