"""All stores answer alike, whatever is asked of them in whatever order."""

import itertools
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from agentlightning.store import InMemoryLightningStore, LightningStore, SqliteLightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.postgres import PostgresLightningStore
from agentlightning.store.testing.machine import OpenStores, comparing
from agentlightning.store.threaded import LightningStoreThreaded
from tests.store.serving import served


def _all_stores(dsn: str, prefix: str) -> OpenStores:
    numbers = itertools.count()

    @asynccontextmanager
    async def open_stores() -> AsyncIterator[Mapping[str, LightningStore]]:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            own: dict[str, LightningStore] = {
                "memory": InMemoryLightningStore(),
                "file": SqliteLightningStore(folder / "alone.db"),
                "postgres": PostgresLightningStore(dsn, namespace=f"{prefix}_{next(numbers)}"),
            }
            behind: dict[str, LightningStore] = {
                "file": SqliteLightningStore(folder / "served.db"),
                "postgres": PostgresLightningStore(dsn, namespace=f"{prefix}_{next(numbers)}"),
            }
            wrapped = InMemoryLightningStore()
            for store in (*own.values(), *behind.values(), wrapped):
                stack.push_async_callback(store.close)
            for name, store in behind.items():
                address = await stack.enter_async_context(served(store))
                own[f"HTTP over {name}"] = await stack.enter_async_context(LightningStoreClient(address))
            yield {**own, "wrapper": LightningStoreThreaded(wrapped)}

    return open_stores


def _run(dsn: str, namespace: str, examples: int, steps: int, *phases: Phase) -> None:
    run_state_machine_as_test(
        comparing(_all_stores(dsn, namespace)),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate, *phases],
        ),
    )


def test_all_stores_answer_alike(postgres_dsn: str, postgres_namespace: str) -> None:
    _run(postgres_dsn, postgres_namespace, examples=10, steps=50)  # opening them takes too long to shrink a failure


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_all_stores_answer_alike_for_long(postgres_dsn: str, postgres_namespace: str) -> None:
    _run(postgres_dsn, postgres_namespace, 500, 100, Phase.shrink)
