"""Both SQLite stores obey the conformance suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore, SqliteLightningStore
from agentlightning.store.testing import CONFORMANCE, Law


@pytest.fixture(params=["memory", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LightningStore]:
    made = InMemoryLightningStore() if request.param == "memory" else SqliteLightningStore(tmp_path / "store.db")
    yield made
    await made.close()


@pytest.mark.parametrize("law", CONFORMANCE, ids=lambda law: law.__name__)
async def test_conformance(law: Law, store: LightningStore) -> None:
    await law(store)
