"""Laws: Deadlines, and what workers hold."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import asyncio
from typing import Any

from agentlightning.errors import InvalidValue, LeaseLost
from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import attempt_of, law, refused, rollout_of, running, soon, span_of
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    LeaseRenewal,
    RolloutConfig,
    RolloutStatus,
)

_SHORT = 0.2
"""Seconds of a deadline that shall pass."""
_LONG = 0.6
"""Seconds of a deadline that must not pass while a few operations run."""


async def ended(store: LightningStore, claim: AttemptedRollout) -> tuple[RolloutStatus, Attempt]:
    """Wait for the end of a claim's rollout; returns what became of both."""
    (rollout,) = await soon(store.wait_for_rollouts(rollout_ids=[claim.rollout_id]))
    return rollout.status, await attempt_of(store, claim)


async def outlast(store: LightningStore, seconds: float) -> None:
    """Wait until the store itself has seen so much time pass."""
    await ended(store, await store.start_rollout("clock", config=RolloutConfig(timeout_seconds=seconds)))


async def renew(
    store: LightningStore, worker_id: str, *held: AttemptedRollout, as_of: float | None = None
) -> LeaseRenewal:
    return await store.renew_leases(worker_id, [(c.rollout_id, c.attempt.attempt_id) for c in held], as_of=as_of)


# -- deadlines -----------------------------------------------------------------------------------------------------


@law
async def attempt_that_lives_too_long_ends_with_no_other_traffic(store: LightningStore) -> None:
    claim = await running(store, worker_id="w", timeout_seconds=0.1)
    status, attempt = await ended(store, claim)
    assert (status, attempt.status) == ("failed", "timeout")
    assert attempt.end_time is not None
    assert attempt.end_time - attempt.start_time >= 0.09
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("unknown", None)
    await refused(LeaseLost, store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded"))


@law
async def silent_attempt_ends(store: LightningStore) -> None:
    status, attempt = await ended(store, await running(store, unresponsive_seconds=0.1))
    assert (status, attempt.status) == ("failed", "unresponsive")
    assert attempt.end_time is not None


@law
async def deadlines_end_started_and_restarted_attempts_too(store: LightningStore) -> None:
    started = await store.start_rollout(1, config=RolloutConfig(timeout_seconds=0.1))
    assert (await ended(store, started))[1].status == "timeout"
    again = await store.start_attempt(started.rollout_id)
    assert (await ended(store, again))[1].status == "timeout"


@law
async def life_that_was_too_long_counts_before_silence(store: LightningStore) -> None:
    claim = await running(store, timeout_seconds=0.0, unresponsive_seconds=0.0)
    assert (await ended(store, claim))[1].status == "timeout"


@law
async def attempt_without_deadlines_never_ends_by_itself(store: LightningStore) -> None:
    claim = await running(store, worker_id="w")
    await outlast(store, _SHORT)
    assert await attempt_of(store, claim) == claim.attempt


@law
async def ended_attempt_has_no_deadline(store: LightningStore) -> None:
    claims = [await running(store, timeout_seconds=_LONG, unresponsive_seconds=_LONG) for _ in range(2)]
    done = await store.update_attempt(claims[0].rollout_id, "latest", status="succeeded")
    await store.update_attempt(claims[1].rollout_id, "latest", status="failed")
    await store.update_rollout(claims[0].rollout_id, status="running")  # its attempt has ended all the same
    await outlast(store, _LONG)
    assert await attempt_of(store, claims[0]) == done
    assert (await rollout_of(store, claims[0].rollout_id)).status == "running"
    assert (await attempt_of(store, claims[1])).status == "failed"


@law
async def every_sign_of_life_puts_silence_off(store: LightningStore) -> None:
    spoken, beaten, updated, renewed = [
        await running(store, worker_id=worker_id, unresponsive_seconds=5 * _SHORT) for worker_id in ("a", "b", "c", "d")
    ]
    for turn in range(6):
        await outlast(store, _SHORT)
        await store.add_span(span_of(spoken, turn + 1))
        await store.update_worker("b")
        await store.update_attempt(updated.rollout_id, "latest", last_heartbeat_time=1.0)
        await renew(store, "d", renewed)
    for claim in (spoken, beaten, updated, renewed):
        assert (await attempt_of(store, claim)).end_time is None
    for claim in (spoken, beaten, updated, renewed):
        assert (await ended(store, claim))[1].status == "unresponsive"


@law
async def nothing_puts_off_the_end_of_life(store: LightningStore) -> None:
    claim = await running(store, worker_id="w", timeout_seconds=_SHORT, unresponsive_seconds=60)
    waiting = asyncio.create_task(ended(store, claim))
    turn = 0
    while not waiting.done():
        turn += 1
        await store.add_span(span_of(claim, turn))
        await renew(store, "w", claim)
        await asyncio.wait({waiting}, timeout=0.02)
    assert (await waiting)[1].status == "timeout"


@law
async def loss_is_tried_again_where_the_config_says_so(store: LightningStore) -> None:
    outcomes: tuple[AttemptStatus, ...] = ("timeout", "unresponsive")
    for outcome in outcomes:
        deadline: dict[str, Any] = {"timeout_seconds" if outcome == "timeout" else "unresponsive_seconds": 0.1}
        first = await running(store, max_attempts=2, retry_condition=[outcome], **deadline)
        second = await soon(store.dequeue_rollout("w", wait=60))
        assert second is not None
        assert (second.rollout_id, second.attempt.sequence_id) == (first.rollout_id, 2)
        assert (await attempt_of(store, first)).status == outcome
        assert (await ended(store, second))[0] == "failed"
        assert (await attempt_of(store, second)).status == outcome


@law
async def silent_attempt_that_speaks_again_may_be_silent_again(store: LightningStore) -> None:
    again: dict[str, Any] = {"max_attempts": 2, "retry_condition": ["unresponsive"]}
    claim = await running(store, worker_id="w", unresponsive_seconds=_SHORT, **again)
    await outlast(store, 2 * _SHORT)
    await store.update_rollout(claim.rollout_id, config=RolloutConfig(unresponsive_seconds=_LONG, **again))
    await store.add_span(span_of(claim, 1))
    revived = await attempt_of(store, claim)
    assert (revived.status, revived.end_time) == ("running", None)
    assert revived.last_heartbeat_time is not None
    await outlast(store, 2 * _LONG)
    silent = await attempt_of(store, claim)
    assert silent.status == "unresponsive"
    assert silent.end_time is not None
    assert silent.end_time - revived.last_heartbeat_time >= _LONG - 0.01


@law
async def silent_attempt_that_waits_to_be_tried_again_takes_its_rollout_back(store: LightningStore) -> None:
    patient = RolloutConfig(max_attempts=2, retry_condition=["unresponsive"])
    claim = await running(store, unresponsive_seconds=_SHORT, max_attempts=2, retry_condition=["unresponsive"])
    await outlast(store, 2 * _SHORT)
    assert (await rollout_of(store, claim.rollout_id)).status == "requeuing"
    await store.update_rollout(claim.rollout_id, config=patient)
    await store.add_span(span_of(claim, 1))
    assert (await rollout_of(store, claim.rollout_id)).status == "running"
    assert await store.dequeue_rollout() is None
    done = await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded")
    assert done.status == "succeeded"


@law
async def silent_attempt_that_its_worker_lists_lives_again(store: LightningStore) -> None:
    again: dict[str, Any] = {"max_attempts": 2, "retry_condition": ["unresponsive"]}
    claim = await running(store, worker_id="w", unresponsive_seconds=_SHORT, **again)
    await outlast(store, 2 * _SHORT)
    assert (await rollout_of(store, claim.rollout_id)).status == "requeuing"
    await store.update_rollout(claim.rollout_id, config=RolloutConfig(**again))
    listed = [(claim.rollout_id, claim.attempt.attempt_id)]
    assert (await store.renew_leases("other", listed)).lost == listed
    assert (await attempt_of(store, claim)).status == "unresponsive"
    assert (await store.renew_leases("w", listed)).lost == []
    assert (await attempt_of(store, claim)).status == "running"
    assert (await rollout_of(store, claim.rollout_id)).status == "running"
    assert await store.dequeue_rollout() is None


@law
async def silent_attempt_that_was_replaced_stays_silent(store: LightningStore) -> None:
    old = await running(store, "w", unresponsive_seconds=0.1, max_attempts=2, retry_condition=["unresponsive"])
    new = await soon(store.dequeue_rollout(wait=60))
    assert new is not None
    await store.update_rollout(old.rollout_id, config=RolloutConfig())  # the new one may be silent
    late = await store.add_span(span_of(old, 1))
    assert late is not None
    assert (late.model_extra or {}).get("late") is True
    listed = [(old.rollout_id, old.attempt.attempt_id)]
    assert (await store.renew_leases("w", listed)).lost == listed
    assert (await attempt_of(store, old)).status == "unresponsive"


@law
async def older_attempt_that_still_lives_ends_alone(store: LightningStore) -> None:
    old = await running(store, worker_id="a", timeout_seconds=_LONG)
    await outlast(store, _SHORT)
    new = await store.start_attempt(old.rollout_id, "b")
    await ended(store, new)
    first, second = await attempt_of(store, old), await attempt_of(store, new)
    assert first.status == second.status == "timeout"
    assert first.end_time is not None
    assert second.end_time is not None
    assert second.end_time - first.end_time >= _SHORT / 2


@law
async def new_config_changes_the_deadlines_of_live_attempts(store: LightningStore) -> None:
    freed = await running(store, timeout_seconds=_LONG, unresponsive_seconds=_LONG)
    await store.update_rollout(freed.rollout_id, config=RolloutConfig())
    longer = await running(store, timeout_seconds=_LONG)
    await store.update_rollout(longer.rollout_id, config=RolloutConfig(timeout_seconds=60))
    for config in (RolloutConfig(timeout_seconds=0.1), RolloutConfig(unresponsive_seconds=0.1)):
        claim = await running(store)
        await store.update_rollout(claim.rollout_id, config=config)
        assert (await ended(store, claim))[0] == "failed"
    await outlast(store, _LONG)
    assert (await attempt_of(store, freed)).status == "preparing"
    assert (await attempt_of(store, longer)).status == "preparing"


@law
async def many_deadlines_pass_at_once(store: LightningStore) -> None:
    made = [await store.start_rollout(i, config=RolloutConfig(timeout_seconds=0.1)) for i in range(150)]
    ids = [rollout.rollout_id for rollout in made]
    finished = await soon(store.wait_for_rollouts(rollout_ids=ids))
    assert [rollout.status for rollout in finished] == ["failed"] * len(ids)


# -- what a worker holds -------------------------------------------------------------------------------------------


@law
async def renewal_is_a_heartbeat_of_what_it_lists(store: LightningStore) -> None:
    listed, other = await running(store, worker_id="w"), await running(store, worker_id="w")
    renewal = await store.renew_leases(
        "w", [(listed.rollout_id, listed.attempt.attempt_id)], heartbeat_stats={"cpu": 1}
    )
    assert renewal.lost == []
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert worker.last_heartbeat_time is not None
    assert worker.heartbeat_stats == {"cpu": 1}
    assert (await attempt_of(store, listed)).last_heartbeat_time == worker.last_heartbeat_time
    assert (await attempt_of(store, other)).last_heartbeat_time is None
    again = await store.renew_leases("w", [])
    assert again.time > renewal.time
    kept = await store.get_worker_by_id("w")
    assert kept is not None
    assert kept.heartbeat_stats == {"cpu": 1}


@law
async def renewal_tells_what_the_heartbeat_before_it_told(store: LightningStore) -> None:
    assert (await store.renew_leases("w", [], heartbeat_stats={"runner": "a"})).former_stats is None
    assert (await store.renew_leases("w", [], heartbeat_stats={"runner": "b"})).former_stats == {"runner": "a"}
    await store.update_worker("w", {"runner": "c"})
    assert (await store.renew_leases("w", [])).former_stats == {"runner": "c"}
    assert (await store.renew_leases("v", [])).former_stats is None
    together = [store.renew_leases("w", [], heartbeat_stats={"beat": number}) for number in range(8)]
    told = [renewal.former_stats for renewal in await asyncio.gather(*together)]
    last = (await store.renew_leases("w", [])).former_stats
    assert {"runner": "c"} in told
    assert sorted(former["beat"] for former in [*told, last] if former and "beat" in former) == list(range(8))


@law
async def renewal_names_what_is_lost(store: LightningStore) -> None:
    held = await running(store, worker_id="w")
    done, cancelled, superseded, given, revived = [await running(store, worker_id="w") for _ in range(5)]
    foreign, silent = await running(store, worker_id="v"), await running(store, worker_id="w")
    await store.update_attempt(done.rollout_id, "latest", status="succeeded")
    await store.update_rollout(cancelled.rollout_id, status="cancelled")
    await store.start_attempt(superseded.rollout_id, "v")
    await store.update_attempt(given.rollout_id, "latest", worker_id="v")
    await store.update_attempt(silent.rollout_id, "latest", status="unresponsive")
    await store.update_attempt(revived.rollout_id, "latest", status="unresponsive")  # which fails its rollout for good
    await store.update_attempt(revived.rollout_id, "latest", status="running")
    claims = (done, cancelled, superseded, given, foreign, silent, revived)
    lost = [(claim.rollout_id, claim.attempt.attempt_id) for claim in claims]
    lost += [("ro-unknown", "at-unknown"), (held.rollout_id, "at-unknown")]
    renewal = await store.renew_leases("w", [*lost, (held.rollout_id, held.attempt.attempt_id), *lost])
    assert renewal.lost == lost
    assert (await attempt_of(store, foreign)).last_heartbeat_time is None


@law
async def cancelled_rollout_ends_its_attempt_and_its_worker_hears_of_it(store: LightningStore) -> None:
    claim = await running(store, worker_id="w")
    assert (await renew(store, "w", claim)).lost == []
    await store.update_rollout(claim.rollout_id, status="cancelled")
    attempt = await attempt_of(store, claim)
    assert (attempt.status, attempt.end_time is None) == ("failed", False)
    assert (await renew(store, "w", claim)).lost == [(claim.rollout_id, claim.attempt.attempt_id)]


@law
async def claim_that_its_worker_does_not_list_returns_to_the_queue(store: LightningStore) -> None:
    claim = await running(store, worker_id="w")
    (number,) = await store.get_many_span_sequence_ids([(claim.rollout_id, claim.attempt.attempt_id)])
    await store.enqueue_rollout("later")
    renewal = await renew(store, "w")
    assert (await attempt_of(store, claim)).status == "preparing"  # nothing said that its worker should know of it
    assert (await renew(store, "w", as_of=renewal.time)).lost == []
    rollout = await rollout_of(store, claim.rollout_id)
    assert (rollout.status, rollout.end_time, type(rollout).__name__) == ("queuing", None, "Rollout")
    assert (await store.query_attempts(claim.rollout_id)).total == 0
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("idle", None)
    again = await store.dequeue_rollout("v")
    assert again is not None
    assert (again.rollout_id, again.attempt.sequence_id) == (claim.rollout_id, 1)
    assert again.attempt.attempt_id != claim.attempt.attempt_id
    assert await store.get_next_span_sequence_id(again.rollout_id, again.attempt.attempt_id) == number + 1


@law
async def unlisted_retry_returns_to_the_queue_with_its_former_attempt(store: LightningStore) -> None:
    first = await running(store, worker_id="w", max_attempts=2, retry_condition=["failed"])
    await store.update_attempt(first.rollout_id, "latest", status="failed")
    waited = await rollout_of(store, first.rollout_id)
    await store.dequeue_rollout("w")
    await renew(store, "w", as_of=(await renew(store, "w")).time)
    assert await rollout_of(store, first.rollout_id) == waited
    again = await store.dequeue_rollout("w")
    assert again is not None
    assert again.attempt.sequence_id == 2


@law
async def returned_claim_calls_those_who_wait_for_work(store: LightningStore) -> None:
    claim = await running(store, worker_id="w")
    waiting = asyncio.create_task(store.dequeue_rollout("v", wait=60))
    await asyncio.wait({waiting}, timeout=0.02)
    await renew(store, "w", as_of=(await renew(store, "w")).time)
    again = await soon(waiting)
    assert again is not None
    assert again.rollout_id == claim.rollout_id


@law
async def unlisted_attempt_that_cannot_return_ends_as_unresponsive(store: LightningStore) -> None:
    worked, moved, reset = [await running(store, worker_id="w") for _ in range(3)]
    await store.add_span(span_of(worked, 1))
    await store.add_span(span_of(reset, 1))
    await store.update_attempt(reset.rollout_id, "latest", status="preparing")
    await store.update_attempt(moved.rollout_id, "latest", status="running")
    started = await store.start_rollout(1, worker_id="w")
    waiting = await store.enqueue_rollout(2)
    restarted = await store.start_attempt(waiting.rollout_id, "w")
    superseded = await running(store, worker_id="w")
    await store.start_attempt(superseded.rollout_id, "v")
    kept = await running(store, worker_id="w")
    await renew(store, "w", kept, as_of=(await renew(store, "w")).time)
    for claim in (worked, moved, reset, started, restarted, superseded):
        attempt = await attempt_of(store, claim)
        assert attempt.status == "unresponsive"
        assert attempt.end_time is not None
        status = "preparing" if claim is superseded else "failed"
        assert (await rollout_of(store, claim.rollout_id)).status == status
    assert (await attempt_of(store, kept)).status == "preparing"


@law
async def claim_after_the_last_renewal_is_safe(store: LightningStore) -> None:
    renewal = await renew(store, "w")
    claim = await running(store, worker_id="w")
    assert (await renew(store, "w", as_of=renewal.time)).lost == []
    assert (await renew(store, "w", as_of=renewal.time + 1e9)).lost == []  # of another clock
    assert await attempt_of(store, claim) == claim.attempt


@law
async def worker_that_begins_anew_loses_what_it_had_before(store: LightningStore) -> None:
    worked, unheard = await running(store, worker_id="w"), await running(store, worker_id="w")
    await store.add_span(span_of(worked, 1))
    first = await renew(store, "w")  # another process under the same name
    claim = await running(store, worker_id="w")
    assert claim.rollout_id not in (worked.rollout_id, unheard.rollout_id)
    await renew(store, "w", claim, as_of=first.time)
    assert (await attempt_of(store, worked)).status == "unresponsive"
    assert (await rollout_of(store, unheard.rollout_id)).status == "queuing"
    assert (await attempt_of(store, claim)).status == "preparing"


@law
async def attempt_that_was_handed_over_is_not_taken_from_its_new_worker(store: LightningStore) -> None:
    claim = await running(store, worker_id="a")
    renewal = await renew(store, "b")
    await store.update_attempt(claim.rollout_id, "latest", worker_id="b")
    await renew(store, "b", as_of=renewal.time)
    assert (await attempt_of(store, claim)).status == "preparing"
    assert (await renew(store, "b", claim)).lost == []


@law
async def renewal_of_one_worker_leaves_others_alone(store: LightningStore) -> None:
    claim, nobodys = await running(store, worker_id="a"), await running(store)
    await renew(store, "b", as_of=(await renew(store, "b")).time)
    assert await attempt_of(store, claim) == claim.attempt
    assert await attempt_of(store, nobodys) == nobodys.attempt


@law
async def released_worker_leaves_its_attempts(store: LightningStore) -> None:
    tried = await running(store, worker_id="w", max_attempts=2, retry_condition=["unresponsive"])
    failed, done, other = [await running(store, worker_id=worker_id) for worker_id in ("w", "w", "v")]
    await store.update_attempt(done.rollout_id, "latest", status="succeeded")
    released = await soon(store.release_worker("w"))
    assert {attempt.attempt_id for attempt in released} == {c.attempt.attempt_id for c in (tried, failed)}
    for attempt in released:
        assert attempt.status == "unresponsive"
        assert attempt.end_time is not None
        assert attempt in list(await store.query_attempts(attempt.rollout_id))
    assert (await rollout_of(store, tried.rollout_id)).status == "requeuing"
    assert (await rollout_of(store, failed.rollout_id)).status == "failed"
    assert (await attempt_of(store, other)).status == "preparing"
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_rollout_id, worker.current_attempt_id) == ("unknown", None, None)
    assert list(await store.release_worker("w")) == []
    assert list(await store.release_worker("unknown")) == []
    assert await store.get_worker_by_id("unknown") is None


@law
async def renewals_with_values_that_cannot_be_are_refused(store: LightningStore) -> None:
    await refused(InvalidValue, store.renew_leases("w", [("ro", "at")], as_of=float("nan")))
    await refused(InvalidValue, store.renew_leases("w\ud800", []))
    await refused(InvalidValue, store.renew_leases("w", [("ro", "at\ud800")]))
    assert await store.get_worker_by_id("w") is None
