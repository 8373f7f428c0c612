"""Laws: Rollouts and the queue."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import asyncio
from typing import Any

from agentlightning.errors import InvalidValue, NotFound
from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import attempt_of, law, refused, rollout_of, running
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest, Rollout, RolloutConfig


@law
async def enqueued_rollout_reads_back_as_returned(store: LightningStore) -> None:
    config = RolloutConfig(max_attempts=3, retry_condition=["failed"], timeout_seconds=1.5)
    made = await store.enqueue_rollout({"a": [1, None, "é"]}, "train", "rs-given", config, {"tag": 1})
    assert made.rollout_id.startswith("ro-")
    assert len(made.rollout_id) == 15
    assert (made.status, made.mode, made.resources_id, made.end_time) == ("queuing", "train", "rs-given", None)
    assert made.config == config
    read = await rollout_of(store, made.rollout_id)
    assert type(read) is Rollout
    assert read == made


@law
async def enqueue_many_keeps_order_and_each_request(store: LightningStore) -> None:
    requests = [EnqueueRolloutRequest(input=i, mode="val" if i % 2 else None, metadata={"i": i}) for i in range(5)]
    made = await store.enqueue_many_rollouts(requests)
    assert [(r.input, r.mode, r.metadata) for r in made] == [(r.input, r.mode, r.metadata) for r in requests]
    claimed = [*await store.dequeue_many_rollouts(limit=2), *await store.dequeue_many_rollouts(limit=5)]
    assert [claim.rollout_id for claim in claimed] == [rollout.rollout_id for rollout in made]
    assert await store.dequeue_many_rollouts(limit=1) == []
    assert await store.enqueue_many_rollouts([]) == []


@law
async def one_bad_request_enqueues_none(store: LightningStore) -> None:
    bad = [EnqueueRolloutRequest(input=1), EnqueueRolloutRequest(input={"x": [float("nan")]})]
    message = await refused(InvalidValue, store.enqueue_many_rollouts(bad))
    assert "input.x[0]" in message
    assert (await store.query_rollouts()).total == 0


@law
async def stored_values_are_not_shared_with_callers(store: LightningStore) -> None:
    task = {"list": [1]}
    made = await store.enqueue_rollout(task, config=RolloutConfig(retry_condition=["failed"]))
    task["list"].append(2)
    made.input["list"].append(3)
    made.config.retry_condition.append("timeout")
    read = await rollout_of(store, made.rollout_id)
    assert read.input == {"list": [1]}
    assert read.config.retry_condition == ["failed"]


@law
async def dequeue_claims_in_order_with_a_fresh_attempt(store: LightningStore) -> None:
    made = [await store.enqueue_rollout(i) for i in range(5)]
    for rollout in made:
        claim = await store.dequeue_rollout("worker")
        assert claim is not None
        assert claim.rollout_id == rollout.rollout_id
        assert claim.status == "preparing"
        attempt = claim.attempt
        assert attempt.attempt_id.startswith("at-")
        assert len(attempt.attempt_id) == 11
        assert (attempt.sequence_id, attempt.status, attempt.worker_id) == (1, "preparing", "worker")
        read = await rollout_of(store, rollout.rollout_id)
        assert type(read) is AttemptedRollout
        assert read == claim
    assert await store.dequeue_rollout() is None
    assert await store.dequeue_rollout() is None


@law
async def dequeue_of_none_claims_none(store: LightningStore) -> None:
    await store.enqueue_rollout(1)
    assert await store.dequeue_many_rollouts(limit=0) == []
    assert await store.dequeue_many_rollouts(limit=-1) == []
    assert await store.dequeue_rollout() is not None


@law
async def concurrent_dequeues_share_the_queue_without_overlap(store: LightningStore) -> None:
    made = await asyncio.gather(*(store.enqueue_rollout(i) for i in range(20)))
    claims = await asyncio.gather(*(store.dequeue_rollout(f"w{i}") for i in range(30)))
    claimed = [claim.rollout_id for claim in claims if claim]
    assert sorted(claimed) == sorted(rollout.rollout_id for rollout in made)
    assert claims.count(None) == 10


@law
async def queue_skips_rollouts_that_left_it(store: LightningStore) -> None:
    made = [await store.enqueue_rollout(i) for i in range(4)]
    await store.update_rollout(made[0].rollout_id, status="succeeded")
    await store.update_rollout(made[1].rollout_id, status="cancelled")
    await store.start_attempt(made[2].rollout_id)
    claim = await store.dequeue_rollout()
    assert claim is not None
    assert claim.rollout_id == made[3].rollout_id
    assert await store.dequeue_rollout() is None


@law
async def requeued_rollout_goes_to_the_tail_and_gets_a_second_attempt(store: LightningStore) -> None:
    first = await running(store)
    second = await store.enqueue_rollout(2)
    await store.update_rollout(first.rollout_id, status="requeuing")
    assert (await attempt_of(store, first)).status == "failed"
    claims = await store.dequeue_many_rollouts(limit=3)
    assert [claim.rollout_id for claim in claims] == [second.rollout_id, first.rollout_id]
    assert claims[1].attempt.sequence_id == 2


@law
async def started_rollout_runs_past_the_queue(store: LightningStore) -> None:
    started = await store.start_rollout({"x": 1}, mode="test", worker_id="w")
    assert (started.status, started.attempt.sequence_id, started.attempt.worker_id) == ("preparing", 1, "w")
    assert started.start_time == started.attempt.start_time
    assert await store.dequeue_rollout() is None
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("busy", started.attempt.attempt_id)
    assert worker.last_dequeue_time is None


@law
async def start_attempt_restarts_whatever_the_status(store: LightningStore) -> None:
    claim = await running(store)
    await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded")
    again = await store.start_attempt(claim.rollout_id, "w")
    assert (again.status, again.end_time, again.attempt.sequence_id) == ("preparing", None, 2)
    assert await rollout_of(store, claim.rollout_id) == again
    await store.update_attempt(claim.rollout_id, "latest", status="failed")
    assert (await rollout_of(store, claim.rollout_id)).status == "failed"
    await refused(NotFound, store.start_attempt("ro-unknown"))


@law
async def update_rollout_changes_only_what_is_passed(store: LightningStore) -> None:
    made = await store.enqueue_rollout({"x": 1}, "train", metadata={"a": 1})
    config = RolloutConfig(max_attempts=2)
    changed = await store.update_rollout(made.rollout_id, mode=None, config=config, metadata={"b": 2})
    assert changed == made.model_copy(update={"mode": None, "config": config, "metadata": {"b": 2}})
    assert await rollout_of(store, made.rollout_id) == changed
    changed = await store.update_rollout(made.rollout_id, input=(1, 2), resources_id="rs-x", metadata=None)
    assert (changed.input, changed.resources_id, changed.metadata) == ([1, 2], "rs-x", None)


@law
async def refused_update_changes_nothing(store: LightningStore) -> None:
    made = await store.enqueue_rollout(1)
    bogus: Any = "bogus"
    none: Any = None
    await refused(InvalidValue, store.update_rollout(made.rollout_id, metadata={"a": 1}, status=bogus))
    await refused(InvalidValue, store.update_rollout(made.rollout_id, status=none))
    await refused(InvalidValue, store.update_rollout(made.rollout_id, config=none))
    await refused(InvalidValue, store.update_rollout(made.rollout_id, mode=bogus))
    await refused(InvalidValue, store.update_rollout(made.rollout_id, input=b"bytes"))
    assert await rollout_of(store, made.rollout_id) == made
    await refused(NotFound, store.update_rollout("ro-unknown", mode="val"))
