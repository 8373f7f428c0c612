"""Laws: Attempts and leases."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

from typing import Any

from agentlightning.errors import InvalidValue, LeaseLost, NotFound
from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import attempt_of, law, refused, rollout_of, running, span_of
from agentlightning.types import AttemptStatus, RolloutStatus


@law
async def cancelling_leaves_what_has_finished_as_it_is(store: LightningStore) -> None:
    done, held = [await running(store) for _ in range(2)]
    queued = await store.enqueue_rollout("waits")
    await store.update_attempt(done.rollout_id, "latest", status="succeeded")
    ids = [done.rollout_id, queued.rollout_id, held.rollout_id]
    cancelled = await store.cancel_rollouts(ids)
    assert [(rollout.rollout_id, rollout.status) for rollout in cancelled] == list(
        zip(ids, ["succeeded", "cancelled", "cancelled"], strict=True)
    )
    attempt = await store.get_latest_attempt(held.rollout_id)
    assert attempt is not None
    assert attempt.status == "failed"
    safe = await store.enqueue_rollout("safe")
    await refused(NotFound, store.cancel_rollouts([safe.rollout_id, "nowhere"]))
    assert [rollout.input for rollout in await store.query_rollouts(status_in=["queuing"])] == ["safe"]
    assert list(await store.cancel_rollouts([])) == []


@law
async def rollout_ends_with_its_latest_attempt(store: LightningStore) -> None:
    claim = await running(store)
    attempt = await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded")
    rollout = await rollout_of(store, claim.rollout_id)
    assert rollout.status == "succeeded"
    assert attempt.end_time is not None
    assert rollout.end_time is not None
    assert rollout.end_time >= attempt.end_time


@law
async def lost_attempt_is_tried_again_within_its_budget(store: LightningStore) -> None:
    claim = await running(store, max_attempts=2, retry_condition=["failed"])
    await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="failed")
    assert (await rollout_of(store, claim.rollout_id)).status == "requeuing"
    again = await store.dequeue_rollout()
    assert again is not None
    assert (again.rollout_id, again.attempt.sequence_id) == (claim.rollout_id, 2)
    await store.update_attempt(claim.rollout_id, again.attempt.attempt_id, status="failed")
    assert (await rollout_of(store, claim.rollout_id)).status == "failed"
    assert await store.dequeue_rollout() is None


@law
async def outcome_that_is_not_retried_fails_the_rollout(store: LightningStore) -> None:
    claim = await running(store, max_attempts=2, retry_condition=["timeout"])
    attempt = await store.update_attempt(claim.rollout_id, "latest", status="unresponsive")
    assert attempt.end_time is not None
    assert (await rollout_of(store, claim.rollout_id)).status == "failed"


@law
async def heartbeat_or_metadata_of_an_attempt_moves_nothing(store: LightningStore) -> None:
    claim = await running(store)
    await store.update_rollout(claim.rollout_id, status="cancelled")
    before = await rollout_of(store, claim.rollout_id)
    attempt = await store.update_attempt(
        claim.rollout_id, claim.attempt.attempt_id, last_heartbeat_time=5.0, metadata={"a": 1}, worker_id=""
    )
    assert (attempt.last_heartbeat_time, attempt.metadata, attempt.worker_id) == (5.0, {"a": 1}, "")
    after = await rollout_of(store, claim.rollout_id)
    assert (after.status, after.end_time) == (before.status, before.end_time)


@law
async def ended_attempt_keeps_its_status(store: LightningStore) -> None:
    claim = await running(store)
    key = claim.rollout_id, claim.attempt.attempt_id
    ended = await store.update_attempt(*key, status="failed")
    assert await store.update_attempt(*key, status="failed") == ended
    for status in ("succeeded", "running", "preparing", "timeout", "unresponsive"):
        await refused(LeaseLost, store.update_attempt(*key, status=status, metadata={"lost": True}))
    assert await attempt_of(store, claim) == ended


@law
async def ending_told_twice_does_not_end_a_restarted_rollout(store: LightningStore) -> None:
    claim = await running(store)
    await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="failed")
    await store.update_rollout(claim.rollout_id, status="queuing")
    await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="failed")
    assert (await rollout_of(store, claim.rollout_id)).status == "queuing"


@law
async def older_attempt_moves_neither_rollout_nor_worker(store: LightningStore) -> None:
    old = await running(store, worker_id="w")
    new = await store.start_attempt(old.rollout_id, "w")
    ended = await store.update_attempt(old.rollout_id, old.attempt.attempt_id, status="succeeded")
    assert ended.status == "succeeded"
    assert await rollout_of(store, old.rollout_id) == new
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("busy", new.attempt.attempt_id)


@law
async def attempts_that_were_replaced_end_with_their_rollout(store: LightningStore) -> None:
    first = await running(store, worker_id="a")
    second = await store.start_attempt(first.rollout_id, "b")
    third = await store.start_attempt(first.rollout_id, "c")
    await store.update_attempt(second.rollout_id, second.attempt.attempt_id, status="succeeded")
    assert (await attempt_of(store, first)).end_time is None
    await store.update_attempt(third.rollout_id, third.attempt.attempt_id, status="succeeded")
    assert [(await attempt_of(store, claim)).status for claim in (first, second, third)] == [
        "failed",
        "succeeded",
        "succeeded",
    ]
    await refused(LeaseLost, store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="succeeded"))
    last = await store.start_attempt(first.rollout_id, "a")
    await store.start_attempt(first.rollout_id, "b")
    await store.update_rollout(first.rollout_id, status="cancelled")
    assert (await attempt_of(store, last)).status == "failed"


@law
async def silent_attempt_that_was_replaced_has_lost_its_lease(store: LightningStore) -> None:
    old = await running(store, max_attempts=2, retry_condition=["unresponsive"])
    await store.update_attempt(old.rollout_id, old.attempt.attempt_id, status="unresponsive")
    new = await store.dequeue_rollout()
    assert new is not None
    await refused(LeaseLost, store.update_attempt(old.rollout_id, old.attempt.attempt_id, status="succeeded"))
    stored = await store.add_span(span_of(old))
    assert stored is not None
    assert (stored.model_extra or {}).get("late") is True
    assert (await attempt_of(store, old)).status == "unresponsive"
    assert await rollout_of(store, old.rollout_id) == new


@law
async def explicit_end_of_a_rollout_ends_its_live_attempt(store: LightningStore) -> None:
    outcomes: dict[RolloutStatus, AttemptStatus] = {"succeeded": "succeeded", "failed": "failed", "cancelled": "failed"}
    for status, outcome in outcomes.items():
        claim = await running(store, worker_id="w")
        await store.update_rollout(claim.rollout_id, status=status)
        attempt = await attempt_of(store, claim)
        assert attempt.status == outcome
        assert attempt.end_time is not None
        worker = await store.get_worker_by_id("w")
        assert worker is not None
        assert (worker.status, worker.current_attempt_id) == ("idle", None)


@law
async def time_may_be_any_number_of_seconds(store: LightningStore) -> None:
    claim = await running(store)
    for time in (2**63, -(2**64), 7):
        attempt = await store.update_attempt(claim.rollout_id, "latest", last_heartbeat_time=time)
        assert attempt.last_heartbeat_time == time
        span = span_of(claim, 1, end_time=1.0).model_copy(update={"end_time": time})
        assert await store.add_span(span) is not None
        await store.renew_leases("w", [], as_of=time)


@law
async def unknown_attempts_are_named(store: LightningStore) -> None:
    made = await store.enqueue_rollout(1)
    assert "No attempts" in await refused(NotFound, store.update_attempt(made.rollout_id, "latest", status="running"))
    await refused(NotFound, store.update_attempt(made.rollout_id, "at-unknown", metadata={}))
    await refused(NotFound, store.update_attempt("ro-unknown", "at-unknown", metadata={}))
    bogus: Any = "requeuing"
    await refused(InvalidValue, store.update_attempt(made.rollout_id, "latest", status=bogus))


@law
async def attempts_are_listed_in_order(store: LightningStore) -> None:
    claim = await running(store)
    for _ in range(3):
        await store.start_attempt(claim.rollout_id)
    numbers = [attempt.sequence_id for attempt in await store.query_attempts(claim.rollout_id)]
    assert numbers == [1, 2, 3, 4]
    page = await store.query_attempts(claim.rollout_id, sort_order="desc", limit=2, offset=1)
    assert ([attempt.sequence_id for attempt in page], page.total) == ([3, 2], 4)
    latest = await store.get_latest_attempt(claim.rollout_id)
    assert latest is not None
    assert latest.sequence_id == 4
    assert await store.get_latest_attempt("ro-unknown") is None
    assert (await store.query_attempts("ro-unknown")).total == 0


@law
async def attempt_finishes_with_its_last_spans(store: LightningStore) -> None:
    claim = await running(store)
    rollout_id, attempt_id = claim.rollout_id, claim.attempt.attempt_id
    assert await store.get_next_span_sequence_id(rollout_id, attempt_id) == 1
    spans = [span_of(claim, name="first"), span_of(claim, 1, name="zeroth"), span_of(claim, name="second")]
    for _ in range(2):  # told twice is as told once
        attempt = await store.finish_attempt(rollout_id, attempt_id, "succeeded", spans, {"seen": True})
        assert (attempt.status, attempt.metadata) == ("succeeded", {"seen": True})
        assert [(span.name, span.sequence_id) for span in await store.query_spans(rollout_id)] == [
            ("zeroth", 1),
            ("first", 2),
            ("second", 3),
        ]
    assert (await rollout_of(store, rollout_id)).status == "succeeded"
    await refused(LeaseLost, store.finish_attempt(rollout_id, attempt_id, "failed", [span_of(claim, name="third")]))
    assert (await store.query_spans(rollout_id)).total == 3
    other = await running(store)
    await refused(InvalidValue, store.finish_attempt(rollout_id, attempt_id, "succeeded", [span_of(other)]))
    await refused(NotFound, store.finish_attempt(rollout_id, "nobody", "succeeded"))
    finished = await store.finish_attempt(other.rollout_id, other.attempt.attempt_id, "failed")
    assert finished.status == "failed"
