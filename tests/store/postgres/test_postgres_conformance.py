"""The store on PostgreSQL obeys the conformance suite."""

import pytest

from agentlightning.store.postgres import PostgresLightningStore
from agentlightning.store.testing import CONFORMANCE, Law


@pytest.mark.parametrize("law", CONFORMANCE, ids=lambda law: law.__name__)
async def test_conformance(law: Law, postgres: PostgresLightningStore) -> None:
    await law(postgres)
