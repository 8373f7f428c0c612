"""Laws: Filters, order, pages and statistics."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import itertools
import random
import warnings
from typing import Any, Literal

from agentlightning.errors import InvalidValue
from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import law, refused, running, span_of
from agentlightning.types.lifecycle import ROLLOUT_STATUSES


@law
async def rollouts_are_found_by_status_and_id(store: LightningStore) -> None:
    made = [await store.enqueue_rollout(i) for i in range(4)]
    ids = [rollout.rollout_id for rollout in made]
    await store.update_rollout(ids[0], status="failed")
    await store.update_rollout(ids[1], status="succeeded")

    async def found(**filters: Any) -> list[str]:
        return [rollout.rollout_id for rollout in await store.query_rollouts(**filters)]

    assert await found() == ids
    assert await found(status_in=["failed", "queuing"]) == [ids[0], *ids[2:]]
    assert await found(status_in=[]) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of v0.3's older names, which programs still use
        assert await found(status=["failed"], rollout_ids=ids) == ids[:1]
        assert await found(status_in=["failed"], status=["queuing"]) == ids[:1]
        assert await found(rollout_id_in=ids[:2], rollout_ids=ids[2:]) == ids[:2]
        assert await found(status=[]) == []
    assert await found(rollout_id_in=ids[2:], status_in=["failed", "queuing"]) == ids[2:]
    assert await found(rollout_id_contains=ids[3][5:], status_in=["failed"], filter_logic="or") == [ids[0], ids[3]]
    assert await found(filter_logic="or") == ids


@law
async def pages_hold_the_total_of_all_matches(store: LightningStore) -> None:
    ids = [(await store.enqueue_rollout(i)).rollout_id for i in range(5)]
    for limit, offset, expected in ((2, 0, ids[:2]), (2, 4, ids[4:]), (0, 0, []), (-1, 3, ids[3:]), (2, 9, [])):
        page = await store.query_rollouts(limit=limit, offset=offset)
        assert [rollout.rollout_id for rollout in page] == expected
        assert (page.total, page.limit, page.offset) == (5, limit, offset)
    for wrong in ({"limit": -2}, {"offset": -1}, {"sort_by": "input"}, {"sort_by": "nothing"}):
        arguments: dict[str, Any] = wrong
        await refused(InvalidValue, store.query_rollouts(**arguments))


@law
async def totals_follow_every_change_of_status(store: LightningStore) -> None:
    """A page that is full learns the number of matches in another way than by counting them."""
    chance = random.Random(0)
    ids = [(await store.enqueue_rollout(i)).rollout_id for i in range(12)]
    for _ in range(4):
        await store.dequeue_rollout()
        await store.start_attempt(chance.choice(ids))
        await store.start_rollout("another")
        for rollout_id in chance.sample(ids, 6):
            await store.update_rollout(rollout_id, status=chance.choice(ROLLOUT_STATUSES))
        choices = [*itertools.combinations(ROLLOUT_STATUSES, 1), *itertools.combinations(ROLLOUT_STATUSES, 2)]
        for statuses in (None, *choices):
            everything = await store.query_rollouts(status_in=statuses)
            page = await store.query_rollouts(status_in=statuses, limit=0)
            assert page.total == everything.total == len(everything)


@law
async def missing_texts_sort_first_ascending_and_last_descending(store: LightningStore) -> None:
    none, train = await store.start_rollout(1), await store.start_rollout(1, mode="train", worker_id="w")
    ids = [none.rollout_id, train.rollout_id]
    orders: tuple[tuple[Literal["asc", "desc"], int], ...] = (("asc", 1), ("desc", -1))
    for order, step in orders:
        found = await store.query_rollouts(sort_by="mode", sort_order=order)
        assert [rollout.rollout_id for rollout in found] == ids[::step]
    again = await store.start_attempt(none.rollout_id, worker_id="w")
    attempts = [none.attempt.attempt_id, again.attempt.attempt_id]
    await store.add_many_spans([span_of(none, 1, "root"), span_of(none, 2, "child", parent_id="ab" * 8)])
    await store.update_worker("idle")
    for order, step in orders:
        found = await store.query_attempts(none.rollout_id, sort_by="worker_id", sort_order=order)
        assert [attempt.attempt_id for attempt in found] == attempts[::step]
        found = await store.query_spans(none.rollout_id, sort_by="parent_id", sort_order=order)
        assert [span.name for span in found] == ["root", "child"][::step]
        found = await store.query_workers(sort_by="current_rollout_id", sort_order=order)
        assert [worker.worker_id for worker in found] == ["idle", "w"][::step]


@law
async def missing_values_sort_first_but_missing_times_last(store: LightningStore) -> None:
    none, train, ended = [await store.enqueue_rollout(1, mode) for mode in (None, "train", "val")]
    await store.update_rollout(ended.rollout_id, status="failed")
    by_mode = await store.query_rollouts(sort_by="mode")
    assert [rollout.rollout_id for rollout in by_mode] == [none.rollout_id, train.rollout_id, ended.rollout_id]
    by_end = await store.query_rollouts(sort_by="end_time")
    assert [rollout.rollout_id for rollout in by_end] == [ended.rollout_id, none.rollout_id, train.rollout_id]


@law
async def statistics_count_everything(store: LightningStore) -> None:
    claim = await running(store, worker_id="w")
    await store.add_span(span_of(claim))
    await store.add_resources({})
    counted = await store.statistics()
    kinds = ("rollouts", "attempts", "spans", "resources", "workers")
    assert [counted.get(f"total_{kind}") for kind in kinds] == [1] * 5
    assert counted.get("uptime", -1.0) >= 0
