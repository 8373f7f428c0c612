"""The store over HTTP obeys the conformance suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentlightning.store import LightningStore, SqliteLightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.server import LightningStoreServer
from agentlightning.store.testing import CONFORMANCE, Law


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LightningStore]:
    served = SqliteLightningStore(tmp_path / "store.db")
    server = LightningStoreServer(served)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    yield client
    await client.close()
    await server.stop()
    await served.close()


@pytest.mark.parametrize("law", CONFORMANCE, ids=lambda law: law.__name__)
async def test_conformance(law: Law, store: LightningStore) -> None:
    await law(store)
