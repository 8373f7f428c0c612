"""Laws: Workers and what they run."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

from typing import Any

from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import attempt_of, law, refused, rollout_of, running


@law
async def worker_follows_its_work(store: LightningStore) -> None:
    assert await store.get_worker_by_id("w") is None
    assert (await store.update_worker("w", {"cpu": 1})).status == "unknown"
    claim = await running(store, worker_id="w")
    busy = await store.get_worker_by_id("w")
    assert busy is not None
    assert (busy.status, busy.current_rollout_id) == ("busy", claim.rollout_id)
    assert busy.current_attempt_id == claim.attempt.attempt_id
    assert busy.heartbeat_stats == {"cpu": 1}
    assert busy.last_dequeue_time is not None
    await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded")
    idle = await store.get_worker_by_id("w")
    assert idle is not None
    assert (idle.status, idle.current_rollout_id, idle.current_attempt_id) == ("idle", None, None)
    assert idle.heartbeat_stats == {"cpu": 1}


@law
async def empty_queue_idles_only_workers_without_live_attempts(store: LightningStore) -> None:
    assert await store.dequeue_rollout("w") is None
    idle = await store.get_worker_by_id("w")
    assert idle is not None
    assert idle.status == "idle"
    claim = await running(store, worker_id="w")
    assert await store.dequeue_rollout("w") is None
    busy = await store.get_worker_by_id("w")
    assert busy is not None
    assert (busy.status, busy.current_attempt_id) == ("busy", claim.attempt.attempt_id)


@law
async def worker_heartbeat_renews_its_live_attempts(store: LightningStore) -> None:
    mine, other = await running(store, worker_id="w"), await running(store, worker_id="v")
    worker = await store.update_worker("w")
    assert worker.last_heartbeat_time is not None
    assert (await attempt_of(store, mine)).last_heartbeat_time == worker.last_heartbeat_time
    assert (await attempt_of(store, other)).last_heartbeat_time is None
    ended = await store.update_attempt(mine.rollout_id, "latest", status="failed")
    await store.update_worker("w")
    assert await attempt_of(store, mine) == ended
    none: Any = None
    await refused(TypeError, store.update_worker("w", none))


@law
async def attempt_can_be_handed_to_another_worker(store: LightningStore) -> None:
    claim = await running(store, worker_id="a")
    await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, worker_id="b")
    workers = {worker.worker_id: worker for worker in await store.query_workers()}
    assert (workers["a"].status, workers["a"].current_attempt_id) == ("idle", None)
    assert (workers["b"].status, workers["b"].current_attempt_id) == ("busy", claim.attempt.attempt_id)


@law
async def worker_is_busy_while_it_holds_an_attempt(store: LightningStore) -> None:
    async def state() -> tuple[str, str | None]:
        worker = await store.get_worker_by_id("w")
        assert worker is not None
        return worker.status, worker.current_attempt_id

    one, two, three = [await running(store, worker_id="w") for _ in range(3)]
    await store.update_attempt(two.rollout_id, "latest", status="succeeded")  # not its current one
    assert await state() == ("busy", three.attempt.attempt_id)
    await store.update_attempt(three.rollout_id, "latest", status="unresponsive")
    assert await state() == ("busy", one.attempt.attempt_id)
    four = await running(store, worker_id="w")
    await store.update_attempt(four.rollout_id, "latest", worker_id="v")
    assert await state() == ("busy", one.attempt.attempt_id)
    five = await running(store, worker_id="w")
    renewal = await store.renew_leases("w", [])
    await store.renew_leases("w", [(one.rollout_id, one.attempt.attempt_id)], as_of=renewal.time)
    assert (await rollout_of(store, five.rollout_id)).status == "queuing"
    assert await state() == ("busy", one.attempt.attempt_id)
    await store.update_rollout(one.rollout_id, status="cancelled")
    assert await state() == ("idle", None)


@law
async def worker_whose_attempt_is_replaced_is_free(store: LightningStore) -> None:
    old = await running(store, worker_id="w")
    await store.start_attempt(old.rollout_id, "v")
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("idle", None)


@law
async def workers_are_found_by_status_and_name(store: LightningStore) -> None:
    await running(store, worker_id="runner-a")
    await store.dequeue_rollout("runner-b")
    await store.update_worker("other")

    async def found(**filters: Any) -> list[str]:
        return [worker.worker_id for worker in await store.query_workers(**filters)]

    assert await found(status_in=["idle", "unknown"]) == ["runner-b", "other"]
    assert await found(worker_id_contains="runner", status_in=["idle"]) == ["runner-b"]
    assert await found(worker_id_contains="oth", status_in=["idle"], filter_logic="or") == ["runner-b", "other"]
    assert await found(sort_by="worker_id", sort_order="desc", limit=2) == ["runner-b", "runner-a"]
