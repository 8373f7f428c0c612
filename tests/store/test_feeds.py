"""What feeds do where a cancelled claim is withdrawn at once: in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agentlightning.store import InMemoryLightningStore, SqliteLightningStore
from agentlightning.store.sql import attempts
from agentlightning.store.sql.claims import undo_claims
from agentlightning.store.sql.store import SqlLightningStore
from agentlightning.store.testing.suite import PATIENCE, running, soon


@pytest.fixture(params=["memory", "file", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SqlLightningStore]:
    if request.param == "postgres":
        postgres: SqlLightningStore = request.getfixturevalue("postgres")
        return lambda: postgres
    return InMemoryLightningStore if request.param == "memory" else lambda: SqliteLightningStore(tmp_path / "store.db")


@pytest.fixture
async def store(open_store: Callable[[], SqlLightningStore]) -> AsyncIterator[SqlLightningStore]:
    made = open_store()
    yield made
    await made.close()


async def test_withdrawn_restart_is_no_loss_to_the_feed(store: SqlLightningStore) -> None:
    """Wherever the cancellation strikes, whoever reads on hears that the rollout is finished."""
    claim = await running(store)
    await store.update_rollout(claim.rollout_id, status="succeeded")
    for steps in range(10):
        restarting = asyncio.create_task(store.start_attempt(claim.rollout_id))
        for _ in range(steps):
            await asyncio.sleep(0)
        restarting.cancel()
        await asyncio.wait({restarting}, timeout=PATIENCE)
        if not restarting.cancelled():
            await store.update_rollout(claim.rollout_id, status="succeeded")
        read = await soon(store.read_finished_rollouts(wait=PATIENCE))
        assert [rollout.rollout_id for rollout in read.items] == [claim.rollout_id]


async def test_reader_who_read_on_meanwhile_hears_of_a_withdrawn_restart(store: SqlLightningStore) -> None:
    first, second = await running(store), await running(store)
    await store.update_rollout(first.rollout_id, status="succeeded")
    restart = await store.write(lambda tx: attempts.start_attempt(tx, first.rollout_id, None))
    await store.update_rollout(second.rollout_id, status="succeeded")
    read = await store.read_finished_rollouts()
    assert [rollout.rollout_id for rollout in read.items] == [second.rollout_id]
    waiting = asyncio.create_task(store.read_finished_rollouts(cursor=read.cursor, wait=60))
    await asyncio.wait({waiting}, timeout=0.02)
    await store.write(lambda tx: undo_claims(tx, [restart]))
    (again,) = (await soon(waiting)).items
    assert (again.rollout_id, again.status) == (first.rollout_id, "succeeded")


async def test_closing_ends_a_reader_who_waits(tmp_path: Path) -> None:
    made = SqliteLightningStore(tmp_path / "store.db")
    waiting = asyncio.create_task(made.read_finished_rollouts(wait=60))
    await asyncio.wait({waiting}, timeout=0.02)
    await made.close()
    done, _ = await asyncio.wait({waiting}, timeout=PATIENCE)
    assert done
    assert waiting.exception() is not None
