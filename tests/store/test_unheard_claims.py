"""An attempt whose caller was cancelled before hearing of it leaves the store as it was."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from agentlightning.store import InMemoryLightningStore
from agentlightning.types import Attempt, AttemptedRollout, Rollout, RolloutConfig, RolloutStatus, Span
from agentlightning.types.lifecycle import ROLLOUT_STATUSES

PATIENCE = 10.0
TWICE = RolloutConfig(max_attempts=2, retry_condition=["failed"])


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    store._writes._here = None  # what runs in its caller's thread is heard of at once
    yield store
    await store.close()


async def cancel_unheard(
    *operations: Coroutine[Any, Any, object], meanwhile: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Cancel operations after their commit; `meanwhile` is committed in between, from another thread."""
    calling = [asyncio.create_task(operation) for operation in operations]
    await asyncio.sleep(0)
    thread = threading.Thread(target=lambda: asyncio.run(meanwhile()))  # type: ignore[arg-type]
    thread.start()
    thread.join(PATIENCE)  # this loop stands still, so the answers wait
    assert not thread.is_alive()
    for task in calling:
        task.cancel()
    await asyncio.wait(calling, timeout=PATIENCE)
    assert all(task.cancelled() for task in calling)


Picture = tuple[list[Rollout], dict[str, list[Attempt]]]


async def picture(store: InMemoryLightningStore) -> Picture:
    rollouts = list(await store.query_rollouts())
    return rollouts, {r.rollout_id: list(await store.query_attempts(r.rollout_id)) for r in rollouts}


async def until_live(store: InMemoryLightningStore, condition: Callable[[set[str]], bool]) -> None:
    """Wait until the live attempts are as they should be: what a cancelled call claimed is undone after its end."""
    live: set[str] | None = None
    async with asyncio.timeout(PATIENCE):
        while live is None or not condition(live):
            await asyncio.sleep(0)
            _, attempts = await picture(store)
            live = {a.attempt_id for of_one in attempts.values() for a in of_one if a.status == "preparing"}


async def assert_idle(store: InMemoryLightningStore, worker_id: str) -> None:
    worker = await store.get_worker_by_id(worker_id)
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("idle", None)


async def claim(store: InMemoryLightningStore) -> AttemptedRollout:
    claimed = await store.dequeue_rollout()
    assert claimed is not None
    return claimed


async def test_a_started_rollout_vanishes(store: InMemoryLightningStore) -> None:
    await store.enqueue_rollout(1)
    before = await picture(store)
    await cancel_unheard(store.start_rollout(2, worker_id="w"), meanwhile=store.statistics)
    assert await picture(store) == before
    await assert_idle(store, "w")


@pytest.mark.parametrize("tried", [False, True])
@pytest.mark.parametrize("status", ROLLOUT_STATUSES)
async def test_a_restart_is_undone_whatever_the_status(
    store: InMemoryLightningStore, status: RolloutStatus, tried: bool
) -> None:
    rollout = await store.enqueue_rollout(1)
    if tried:
        await claim(store)
    await store.update_rollout(rollout.rollout_id, status=status)
    before = await picture(store)
    await cancel_unheard(store.start_attempt(rollout.rollout_id, "w"), meanwhile=store.statistics)
    assert await picture(store) == before
    await assert_idle(store, "w")
    finished = await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=0)
    assert len(finished) == (status in ("failed", "succeeded", "cancelled"))
    assert ([r.rollout_id for r in await store.dequeue_many_rollouts()] == [rollout.rollout_id]) == (
        status in ("queuing", "requeuing")
    )


async def test_an_undone_restart_wakes_those_who_wait_for_the_end(store: InMemoryLightningStore) -> None:
    ended, open_ = await store.enqueue_rollout(1), await store.enqueue_rollout(2)
    await store.update_rollout(ended.rollout_id, status="succeeded")
    ids = [ended.rollout_id, open_.rollout_id]
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=ids, timeout=PATIENCE))
    await asyncio.sleep(0)
    await cancel_unheard(
        store.start_attempt(ended.rollout_id),
        meanwhile=lambda: store.update_rollout(open_.rollout_id, status="failed"),
    )
    assert [rollout.rollout_id for rollout in await waiting] == ids


@pytest.mark.parametrize(("config", "expected"), [(RolloutConfig(), "failed"), (TWICE, "requeuing")])
async def test_an_undone_restart_follows_what_became_of_the_former_attempt(
    store: InMemoryLightningStore, config: RolloutConfig, expected: RolloutStatus
) -> None:
    await store.enqueue_rollout(1, config=config)
    former = await claim(store)
    fail = lambda: store.update_attempt(former.rollout_id, former.attempt.attempt_id, status="failed")  # noqa: E731
    await cancel_unheard(store.start_attempt(former.rollout_id), meanwhile=fail)
    read = await store.get_rollout_by_id(former.rollout_id)
    assert isinstance(read, AttemptedRollout)
    assert (read.status, read.attempt.attempt_id) == (expected, former.attempt.attempt_id)


async def test_a_claim_that_was_moved_meanwhile_is_ended_instead(store: InMemoryLightningStore) -> None:
    rollout = await store.enqueue_rollout(1, config=TWICE)
    restart = lambda: store.start_attempt(rollout.rollout_id, "other")  # noqa: E731
    await cancel_unheard(store.dequeue_rollout("w"), meanwhile=restart)
    attempts = await store.query_attempts(rollout.rollout_id)
    assert [(attempt.worker_id, attempt.status) for attempt in attempts] == [("w", "failed"), ("other", "preparing")]
    await assert_idle(store, "w")
    await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    assert len(await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=0)) == 1


async def test_an_attempt_that_somebody_works_on_stays(store: InMemoryLightningStore) -> None:
    async def work_on_it() -> None:
        (started,) = await store.query_rollouts()
        assert isinstance(started, AttemptedRollout)
        ids = {"rollout_id": started.rollout_id, "attempt_id": started.attempt.attempt_id}
        await store.add_span(Span.from_attributes(attributes={}, **ids))

    await cancel_unheard(store.start_rollout(1), meanwhile=work_on_it)
    assert [rollout.status for rollout in await store.query_rollouts()] == ["running"]


@pytest.mark.parametrize("turns", range(8))
async def test_no_moment_of_cancelling_leaves_an_orphan(store: InMemoryLightningStore, turns: int) -> None:
    queued = [await store.enqueue_rollout(i) for i in range(10)]
    calling = [
        asyncio.create_task(call)
        for rollout in queued
        for call in (store.start_rollout(0), store.start_attempt(rollout.rollout_id), store.dequeue_rollout())
    ]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in calling:
        task.cancel()
    await asyncio.wait(calling, timeout=PATIENCE)
    heard = {task.result().attempt.attempt_id for task in calling if not task.cancelled() and task.result()}  # type: ignore[union-attr]
    await until_live(store, lambda live: live <= heard)


@pytest.mark.parametrize("turns", range(12))
async def test_no_moment_of_cancelling_a_wait_for_work_leaves_an_orphan(
    store: InMemoryLightningStore, turns: int
) -> None:
    waiting = [asyncio.create_task(store.dequeue_many_rollouts(limit=2, worker_id="w", wait=60)) for _ in range(5)]
    staying = asyncio.create_task(store.dequeue_rollout("v", wait=60))
    async with asyncio.timeout(PATIENCE):
        while store._signals.waiting < 6:  # noqa: ASYNC110  # registering has no event
            await asyncio.sleep(0)
    enqueuing = [asyncio.create_task(store.enqueue_rollout(i)) for i in range(20)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait([*waiting, *enqueuing], timeout=PATIENCE)
    heard = {c.attempt.attempt_id for task in waiting if not task.cancelled() for c in task.result()}
    claimed = await asyncio.wait_for(staying, PATIENCE)
    assert claimed is not None
    held = heard | {claimed.attempt.attempt_id}
    await until_live(store, lambda live: live == held)
    assert store._signals.waiting == 0


async def test_claims_of_one_group_are_undone_from_the_last_to_the_first(store: InMemoryLightningStore) -> None:
    rollout = await store.enqueue_rollout(1)
    before = await picture(store)

    restarts = [store.start_attempt(rollout.rollout_id) for _ in range(3)]
    await cancel_unheard(*restarts, meanwhile=store.statistics)
    assert await picture(store) == before
