"""Pruning: what goes, what never goes, and that the others are not held up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import InvalidValue
from agentlightning.store import SqliteLightningStore
from agentlightning.store.sql import retention
from agentlightning.store.sql.retention import Pruned, Sweep
from agentlightning.store.sql.store import SqlLightningStore
from agentlightning.store.testing.suite import span_of
from agentlightning.types import AttemptedRollout


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteLightningStore]:
    made = SqliteLightningStore(tmp_path / "store.db")
    yield made
    await made.close()


async def lives(store: SqlLightningStore, count: int, spans: int = 3) -> list[AttemptedRollout]:
    """Claimed rollouts with spans, and behind them one that writes the last span."""
    claims = [await store.start_rollout(number) for number in range(count)]
    for claim in claims:
        await store.add_many_spans([span_of(claim, number) for number in range(1, spans + 1)])
    last = await store.start_rollout("the last to write")
    await store.add_span(span_of(last))
    return claims


async def finish(store: SqliteLightningStore, claims: list[AttemptedRollout], ago: float = 0.0) -> None:
    for claim in claims:
        await store.update_rollout(claim.rollout_id, status="succeeded")
    with sqlite3.connect(store.path) as rows:
        ids = [(ago, claim.rollout_id) for claim in claims]
        rows.executemany("UPDATE rollouts SET end_time = end_time - ? WHERE rollout_id = ?", ids)
    rows.close()


async def stored(store: SqliteLightningStore) -> set[str]:
    return {rollout.rollout_id for rollout in await store.query_rollouts()}


def ids_of(claims: list[AttemptedRollout]) -> set[str]:
    return {claim.rollout_id for claim in claims}


async def test_age_and_number_say_what_goes(store: SqliteLightningStore) -> None:
    claims = await lives(store, 9)
    everything = await stored(store)
    old, middle, new = claims[:4], claims[4:6], claims[6:]
    await finish(store, old, ago=1000)
    await finish(store, middle, ago=100)
    await finish(store, new)
    assert await store.count_prunable(older_than=500, keep=7) == 2
    assert await store.prune(older_than=500, keep=7) == Pruned(2, 2, 6)
    assert await stored(store) == everything - ids_of(old[:2])
    assert await store.prune(older_than=500) == Pruned(2, 2, 6)
    assert await store.prune(older_than=500) == Pruned()
    assert await store.prune(keep=4) == Pruned(1, 1, 3)
    assert await stored(store) == everything - ids_of(old) - ids_of(middle[:1])
    assert await store.prune(keep=50) == Pruned()
    assert await store.prune(keep=0) == Pruned(4, 4, 12)
    assert await stored(store) == everything - ids_of(claims)
    counted = await store.statistics()
    assert [counted.get(f"total_{kind}") for kind in ("rollouts", "attempts", "spans")] == [1, 1, 1]
    page = await store.query_rollouts(status_in=["succeeded"], limit=0)
    assert page.total == 0


async def test_what_lives_never_goes(store: SqliteLightningStore) -> None:
    claims = await lives(store, 5)
    await finish(store, claims, ago=1000)
    queued = await store.enqueue_rollout("waits")
    await store.start_attempt(claims[0].rollout_id)
    await store.update_rollout(claims[1].rollout_id, status="queuing")
    spans = {claim.rollout_id: list(await store.query_spans(claim.rollout_id)) for claim in claims[:2]}
    assert await store.prune(keep=0, older_than=0) == Pruned(3, 3, 9)
    assert await stored(store) >= {queued.rollout_id, *ids_of(claims[:2])}
    assert {rollout_id: list(await store.query_spans(rollout_id)) for rollout_id in spans} == spans
    claimed = await store.dequeue_many_rollouts(limit=5)
    assert [rollout.rollout_id for rollout in claimed] == [queued.rollout_id, claims[1].rollout_id]


async def test_spans_alone_may_go(store: SqliteLightningStore) -> None:
    claims = await lives(store, 3)
    await finish(store, claims)
    before = list(await store.query_rollouts())
    assert await store.prune(keep=1, only_spans=True) == Pruned(0, 0, 6)
    assert await store.prune(keep=1, only_spans=True) == Pruned()
    assert list(await store.query_rollouts()) == before
    assert [(await store.query_spans(claim.rollout_id)).total for claim in claims] == [0, 0, 3]


async def test_readers_of_spans_miss_nothing_that_comes_after(store: SqliteLightningStore) -> None:
    claims = await lives(store, 3)
    last = (await store.query_rollouts(sort_by="start_time", sort_order="desc", limit=1))[0]
    await store.update_rollout(last.rollout_id, status="failed")
    await finish(store, claims)
    read = await store.read_spans()
    await store.prune(keep=0)
    later = span_of(await store.start_rollout("comes after"))
    await store.add_span(later)
    assert (await store.read_spans(cursor=read.cursor)).items == [later]
    assert await store.prune(keep=0) == Pruned(1, 1, 1)


async def test_many_spans_go_in_small_steps_between_which_writers_write(
    store: SqliteLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_SPANS", 10)
    claims = await lives(store, 4, spans=25)
    await finish(store, claims)
    seen: list[Sweep] = []
    written: list[asyncio.Task[Any]] = []

    def progress(sweep: Sweep) -> None:
        seen.append(sweep)
        written.append(asyncio.create_task(store.enqueue_rollout("meanwhile")))

    assert await store.prune(keep=0, progress=progress) == Pruned(4, 4, 100)
    assert all(task.done() for task in written[:-2])  # each was written during the next step
    await asyncio.gather(*written)
    spans = [sweep.pruned.spans for sweep in seen]
    assert max(later - before for before, later in zip([0, *spans], spans, strict=False)) <= 10
    assert {sweep.found for sweep in seen} == {4}
    assert seen[-1].seen == 4


async def test_what_ends_during_a_pruning_stays(store: SqliteLightningStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_SPANS", 10)
    claims = await lives(store, 6, spans=10)
    await finish(store, claims[:4])
    ending: list[asyncio.Task[Any]] = []

    def progress(sweep: Sweep) -> None:
        if not ending:
            ending.extend(
                asyncio.create_task(store.update_rollout(claim.rollout_id, status="failed")) for claim in claims[4:]
            )

    assert await store.prune(keep=0, progress=progress) == Pruned(4, 4, 40)
    await asyncio.gather(*ending)
    assert await stored(store) >= ids_of(claims[4:])
    assert await store.prune(keep=0) == Pruned(2, 2, 20)


@pytest.mark.parametrize("policy", [{}, {"keep": -1}, {"older_than": -1.0}, {"keep": "5"}, {"older_than": "1d"}])
async def test_policy_that_says_nothing_sensible_is_refused(store: SqliteLightningStore, policy: Any) -> None:
    claims = await lives(store, 1)
    await finish(store, claims, ago=10)
    for refusing in (store.prune, store.count_prunable):
        with pytest.raises(InvalidValue):
            await refusing(**policy)
    assert await stored(store) > ids_of(claims)


async def test_postgres_prunes_alike(postgres: SqlLightningStore) -> None:
    claims = await lives(postgres, 5)
    for claim in claims[:4]:
        await postgres.update_rollout(claim.rollout_id, status="failed")
    assert await postgres.prune(older_than=1000) == Pruned()
    assert await postgres.prune(keep=3, only_spans=True) == Pruned(0, 0, 3)
    assert await postgres.prune(keep=1) == Pruned(3, 3, 6)
    left = {rollout.rollout_id for rollout in await postgres.query_rollouts()}
    assert left > {claim.rollout_id for claim in claims[3:]}
    assert (await postgres.query_rollouts(status_in=["failed"], limit=0)).total == 1


async def test_space_is_used_again(store: SqliteLightningStore) -> None:
    async def fill() -> int:
        await finish(store, await lives(store, 20, spans=100))
        await store.prune(keep=0)
        await asyncio.to_thread(checkpoint, store.path)
        return store.path.stat().st_size

    first, second = await fill(), await fill()
    assert second < first * 1.5


def checkpoint(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
