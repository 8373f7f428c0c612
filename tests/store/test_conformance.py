"""Every store obeys the conformance suite: each of SQLite and PostgreSQL, alone, over HTTP, and wrapped."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore, SqliteLightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.testing import CONFORMANCE, Law
from agentlightning.store.threaded import LightningStoreThreaded
from tests.store.serving import OpenStore, served


@pytest.fixture(params=["memory", "file", "postgres", "http-file", "http-postgres", "wrapper"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def open_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    if kind.endswith("file"):
        return lambda: SqliteLightningStore(tmp_path / "store.db")
    if kind.endswith("postgres"):
        from agentlightning.store.postgres import PostgresLightningStore

        dsn, namespace = (request.getfixturevalue(name) for name in ("postgres_dsn", "postgres_namespace"))
        return lambda: PostgresLightningStore(dsn, namespace=namespace)
    return InMemoryLightningStore


@pytest.fixture
async def store(kind: str, open_store: OpenStore) -> AsyncIterator[LightningStore]:
    async with AsyncExitStack() as stack:
        made = open_store()
        stack.push_async_callback(made.close)
        if kind == "wrapper":
            yield LightningStoreThreaded(made)
        elif kind.startswith("http"):
            address = await stack.enter_async_context(served(made))
            yield await stack.enter_async_context(LightningStoreClient(address))
        else:
            yield made


@pytest.mark.parametrize("law", CONFORMANCE, ids=lambda law: law.__name__)
async def test_conformance(law: Law, store: LightningStore) -> None:
    await law(store)
