"""Laws: Spans and their sequence ids."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import asyncio
from typing import Any

from agentlightning.errors import InvalidValue, NotFound
from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import attempt_of, law, refused, rollout_of, running, span_of
from agentlightning.types import AttemptedRollout


@law
async def first_span_says_that_the_attempt_runs(store: LightningStore) -> None:
    claim = await running(store)
    span = span_of(claim)
    assert await store.add_span(span) is not None
    rollout = await rollout_of(store, claim.rollout_id)
    assert isinstance(rollout, AttemptedRollout)
    assert (rollout.status, rollout.attempt.status) == ("running", "running")
    assert rollout.attempt.last_heartbeat_time is not None


@law
async def spans_read_back_as_written(store: LightningStore) -> None:
    claim = await running(store)
    written = [
        span_of(claim, 1, start_time=1.25, end_time=2.5),
        span_of(claim, 2, parent_id="00" * 8),
        span_of(claim, 3).model_copy(
            update={"attributes": {"ids": [1, 2], "floats": [-0.5, 1e-9], "mixed": [True, 1]}}
        ),
        span_of(claim, 4).model_copy(update={"kind": "CLIENT", "scope": {"name": "x", "version": None}}),
    ]
    assert list(await store.add_many_spans(written)) == written
    read = await store.query_spans(claim.rollout_id)
    assert list(read) == written
    assert [span.model_dump_json() for span in read] == [span.model_dump_json() for span in written]


@law
async def duplicate_spans_are_skipped(store: LightningStore) -> None:
    claim = await running(store)
    first, second = span_of(claim, 1), span_of(claim, 2)
    assert await store.add_span(first) == first
    assert await store.add_span(first) is None
    assert list(await store.add_many_spans([first, second, second])) == [second]
    assert (await store.query_spans(claim.rollout_id)).total == 2


@law
async def span_of_an_unknown_attempt_writes_nothing(store: LightningStore) -> None:
    claim = await running(store)
    stranger = span_of(claim, 7).model_copy(update={"attempt_id": "at-unknown"})
    await refused(NotFound, store.add_many_spans([span_of(claim, 9), stranger]))
    nobody = span_of(claim).model_copy(update={"rollout_id": "ro-unknown"})
    await refused(NotFound, store.add_span(nobody))
    unwritable = span_of(claim).model_copy(update={"attributes": {"object": object()}})
    await refused(InvalidValue, store.add_many_spans([span_of(claim, 9), unwritable]))
    assert (await store.query_spans(claim.rollout_id)).total == 0
    assert await store.get_next_span_sequence_id(claim.rollout_id, claim.attempt.attempt_id) == 1
    assert (await attempt_of(store, claim)).status == "preparing"


@law
async def late_spans_are_kept_flagged_and_move_nothing(store: LightningStore) -> None:
    claim = await running(store)
    await store.add_span(span_of(claim, 1))
    await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded")
    before = await rollout_of(store, claim.rollout_id)
    late = await store.add_span(span_of(claim, 2))
    assert late is not None
    read = await store.query_spans(claim.rollout_id)
    assert read[1] == late
    assert [(span.model_extra or {}).get("late") for span in read] == [None, True]
    after = await rollout_of(store, claim.rollout_id)
    assert (after.status, after.end_time) == (before.status, before.end_time)
    assert (await attempt_of(store, claim)).status == "succeeded"


@law
async def span_revives_a_silent_attempt(store: LightningStore) -> None:
    claim = await running(store, worker_id="w", max_attempts=2, retry_condition=["unresponsive"])
    await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="unresponsive")
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert worker.status == "unknown"
    await store.add_span(span_of(claim))
    attempt = await attempt_of(store, claim)
    assert (attempt.status, attempt.end_time) == ("running", None)
    assert (await rollout_of(store, claim.rollout_id)).status == "running"
    assert await store.dequeue_rollout() is None


@law
async def span_does_not_revive_the_attempt_of_a_finished_rollout(store: LightningStore) -> None:
    cancelled = await running(store, worker_id="w", max_attempts=2, retry_condition=["unresponsive"])
    failed = await running(store, worker_id="w")
    await store.release_worker("w")
    await store.update_rollout(cancelled.rollout_id, status="cancelled")
    for claim in (cancelled, failed):
        before = await attempt_of(store, claim)
        stored = await store.add_span(span_of(claim))
        assert stored is not None
        assert (stored.model_extra or {}).get("late") is True
        after = await attempt_of(store, claim)
        assert (after.status, after.end_time) == ("unresponsive", before.end_time)
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("unknown", None)


@law
async def sequence_ids_count_per_rollout(store: LightningStore) -> None:
    one, two = await running(store), await running(store)
    pairs = [(claim.rollout_id, claim.attempt.attempt_id) for claim in (one, two, one, one)]
    assert list(await store.get_many_span_sequence_ids(pairs)) == [1, 1, 2, 3]
    assert await store.get_next_span_sequence_id(one.rollout_id, "at-made-up") == 4
    assert list(await store.get_many_span_sequence_ids([])) == []
    await refused(NotFound, store.get_next_span_sequence_id("ro-unknown", "at-unknown"))
    await refused(NotFound, store.get_many_span_sequence_ids([pairs[0], ("ro-unknown", "at-unknown")]))
    assert await store.get_next_span_sequence_id(*pairs[0]) == 5


@law
async def explicit_sequence_ids_push_the_counter(store: LightningStore) -> None:
    claim = await running(store)
    key = claim.rollout_id, claim.attempt.attempt_id
    await store.add_span(span_of(claim, 0))
    assert await store.get_next_span_sequence_id(*key) == 1
    await store.add_span(span_of(claim, 100))
    assert await store.get_next_span_sequence_id(*key) == 101
    await store.add_span(span_of(claim, 50))
    assert await store.get_next_span_sequence_id(*key) == 102


@law
async def sequence_ids_that_leave_no_room_for_later_ones_are_refused(store: LightningStore) -> None:
    claim = await running(store)
    for number in (2**63 - 1, 2**53, -(2**53)):
        assert "sequence_id" in await refused(InvalidValue, store.add_span(span_of(claim, number)))
    assert await store.add_span(span_of(claim, 2**53 - 1)) is not None
    assert await store.get_next_span_sequence_id(claim.rollout_id, claim.attempt.attempt_id) == 2**53


@law
async def concurrent_sequence_ids_are_distinct(store: LightningStore) -> None:
    claim = await running(store)
    key = claim.rollout_id, claim.attempt.attempt_id
    numbers = await asyncio.gather(*(store.get_next_span_sequence_id(*key) for _ in range(30)))
    assert sorted(numbers) == list(range(1, 31))


@law
async def spans_are_ordered_by_sequence_then_start(store: LightningStore) -> None:
    claim = await running(store)
    starts = [(2, 5.0, "e"), (1, 9.0, "c"), (1, 3.0, "b"), (1, None, "d"), (0, 9.0, "a")]
    await store.add_many_spans([span_of(claim, n, name, start_time=start) for n, start, name in starts])
    assert [span.name for span in await store.query_spans(claim.rollout_id)] == ["a", "b", "c", "d", "e"]
    descending = await store.query_spans(claim.rollout_id, sort_order="desc", limit=2)
    assert ([span.name for span in descending], descending.total) == (["e", "b"], 5)
    by_name = await store.query_spans(claim.rollout_id, sort_by="name", sort_order="desc", offset=3)
    assert [span.name for span in by_name] == ["b", "a"]


@law
async def spans_are_found_by_attempt_and_filters(store: LightningStore) -> None:
    first = await running(store)
    await store.add_many_spans([span_of(first, 1, "call.one"), span_of(first, 2, "call.two")])
    second = await store.start_attempt(first.rollout_id)
    third = span_of(second, 3, "tool", parent_id="ab" * 8)
    await store.add_span(third)
    await store.add_span(span_of(await running(store), 1, "tool"))

    async def names(*args: Any, **filters: Any) -> list[str]:
        return [span.name for span in await store.query_spans(first.rollout_id, *args, **filters)]

    assert await names() == ["call.one", "call.two", "tool"]
    assert await names("latest") == ["tool"]
    assert await names(first.attempt.attempt_id) == ["call.one", "call.two"]
    assert await names("at-unknown") == []
    assert await names(name_contains="call") == ["call.one", "call.two"]
    assert await names(name_contains="CALL") == []
    assert await names(parent_id_contains="baba", trace_id=third.trace_id) == ["tool"]
    assert await names(span_id=third.span_id, name="call.one", filter_logic="or") == ["call.one", "tool"]
    assert await names(filter_logic="or") == ["call.one", "call.two", "tool"]
    assert await names(limit=0) == []
    assert (await store.query_spans("ro-unknown", "latest")).total == 0
