"""Laws: Feeds, whose readers see everything once and in order."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import asyncio
import time
from typing import Any

from agentlightning.errors import InvalidValue
from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import PATIENCE, law, refused, running, soon, span_of
from agentlightning.types import AttemptedRollout, FinishedRollouts


def _ids(read: FinishedRollouts) -> list[str]:
    return [rollout.rollout_id for rollout in read.items]


@law
async def finished_rollouts_come_in_the_order_of_their_ends(store: LightningStore) -> None:
    claims = [await running(store) for _ in range(4)]
    ids = [claim.rollout_id for claim in claims]
    assert await store.read_finished_rollouts() == FinishedRollouts(items=[], cursor=0)
    await store.update_attempt(ids[2], "latest", status="succeeded")
    await store.update_rollout(ids[0], status="cancelled")
    queued = await store.enqueue_rollout("never claimed")
    await store.update_rollout(queued.rollout_id, status="failed")
    first = await store.read_finished_rollouts(limit=2)
    assert _ids(first) == [ids[2], ids[0]]
    rollout = first.items[0]
    assert isinstance(rollout, AttemptedRollout)
    assert (rollout.status, rollout.attempt.status) == ("succeeded", "succeeded")
    second = await store.read_finished_rollouts(cursor=first.cursor, limit=2)
    assert _ids(second) == [queued.rollout_id]
    assert type(second.items[0]) is not AttemptedRollout
    assert await store.read_finished_rollouts(cursor=second.cursor) == FinishedRollouts(items=[], cursor=second.cursor)
    await store.update_attempt(ids[3], "latest", status="failed")
    assert _ids(await store.read_finished_rollouts(cursor=second.cursor)) == [ids[3]]
    assert _ids(await store.read_finished_rollouts()) == [ids[2], ids[0], queued.rollout_id, ids[3]]


@law
async def feed_can_be_joined_where_it_is_now(store: LightningStore) -> None:
    assert await store.read_finished_rollouts(cursor=-1, wait=60) == FinishedRollouts(items=[], cursor=0)
    before, after = [await running(store) for _ in range(2)]
    await store.update_attempt(before.rollout_id, "latest", status="succeeded")
    joined = await store.read_finished_rollouts(cursor=-1, wait=60)
    assert joined == FinishedRollouts(items=[], cursor=(await store.read_finished_rollouts()).cursor)
    await store.update_attempt(after.rollout_id, "latest", status="succeeded")
    assert _ids(await store.read_finished_rollouts(cursor=joined.cursor)) == [after.rollout_id]


@law
async def restarted_rollout_leaves_the_feed_until_it_finishes_again(store: LightningStore) -> None:
    restarted, other, requeued = [await running(store) for _ in range(3)]
    for claim in (restarted, other, requeued):
        await store.update_rollout(claim.rollout_id, status="failed")
    before = await store.read_finished_rollouts()
    await store.start_attempt(restarted.rollout_id)
    await store.update_rollout(requeued.rollout_id, status="queuing")
    assert _ids(await store.read_finished_rollouts()) == [other.rollout_id]
    assert _ids(await store.read_finished_rollouts(cursor=before.cursor)) == []
    await store.update_attempt(restarted.rollout_id, "latest", status="succeeded")
    again = await store.read_finished_rollouts(cursor=before.cursor)
    assert [(rollout.rollout_id, rollout.status) for rollout in again.items] == [(restarted.rollout_id, "succeeded")]
    assert _ids(await store.read_finished_rollouts()) == [other.rollout_id, restarted.rollout_id]


@law
async def rollout_told_to_have_ended_otherwise_comes_again(store: LightningStore) -> None:
    claim = await running(store)
    await store.update_rollout(claim.rollout_id, status="succeeded")
    first = await store.read_finished_rollouts()
    await store.update_rollout(claim.rollout_id, status="succeeded")
    assert _ids(await store.read_finished_rollouts(cursor=first.cursor)) == []
    await store.update_rollout(claim.rollout_id, status="failed")
    second = await store.read_finished_rollouts(cursor=first.cursor)
    assert [rollout.status for rollout in second.items] == ["failed"]


@law
async def reader_who_waits_is_woken_by_the_end_of_a_rollout(store: LightningStore) -> None:
    one, two = await running(store), await running(store)
    reads = [asyncio.create_task(store.read_finished_rollouts(wait=60)) for _ in range(3)]
    await asyncio.wait(reads, timeout=0.02)
    await store.add_span(span_of(one))
    assert not any(read.done() for read in reads)
    await store.update_attempt(one.rollout_id, "latest", status="succeeded")
    woken = await soon(asyncio.gather(*reads))
    assert [_ids(read) for read in woken] == [[one.rollout_id]] * 3
    waiting = asyncio.create_task(store.read_finished_rollouts(cursor=woken[0].cursor, wait=60))
    await asyncio.wait({waiting}, timeout=0.02)
    assert not waiting.done()
    await store.update_rollout(two.rollout_id, status="failed")
    assert _ids(await soon(waiting)) == [two.rollout_id]


@law
async def reader_waits_no_longer_than_asked_and_ends_when_cancelled(store: LightningStore) -> None:
    for wait in (0.0, -1.0):
        assert (await soon(store.read_finished_rollouts(wait=wait))).items == []
    start = time.monotonic()
    assert (await soon(store.read_finished_rollouts(cursor=7, wait=0.05))) == FinishedRollouts(items=[], cursor=7)
    assert time.monotonic() - start >= 0.04
    waiting = asyncio.ensure_future(store.read_finished_rollouts(wait=60))
    await asyncio.wait({waiting}, timeout=0.02)
    waiting.cancel()
    done, _ = await asyncio.wait({waiting}, timeout=PATIENCE)
    assert done
    assert waiting.cancelled()


@law
async def concurrent_ends_are_each_read_once(store: LightningStore) -> None:
    claims = [await running(store) for _ in range(30)]

    async def read_all() -> list[str]:
        seen: list[str] = []
        cursor = 0
        while len(seen) < len(claims):
            read = await store.read_finished_rollouts(cursor=cursor, limit=4, wait=60)
            seen += _ids(read)
            cursor = read.cursor
        return seen

    readers = [asyncio.create_task(read_all()) for _ in range(3)]
    await asyncio.gather(*(store.update_rollout(claim.rollout_id, status="succeeded") for claim in claims))
    seen = await soon(asyncio.gather(*readers))
    assert sorted(seen[0]) == sorted(claim.rollout_id for claim in claims)
    assert seen[1:] == seen[:1] * 2


@law
async def spans_are_read_in_the_order_of_writing(store: LightningStore) -> None:
    one, two = await running(store), await running(store)
    written = [span_of(claim, number) for number, claim in ((5, one), (1, two), (3, one), (4, two), (1, one))]
    for span in written:
        await store.add_span(span)
    first = await store.read_spans(limit=2)
    assert first.items == written[:2]
    second = await store.read_spans(cursor=first.cursor)
    assert second.items == written[2:]
    end = await store.read_spans(cursor=second.cursor)
    assert (end.items, end.cursor) == ([], second.cursor)
    late = span_of(two, 9)
    await store.update_rollout(two.rollout_id, status="failed")
    await store.add_span(late)
    assert [span.span_id for span in (await store.read_spans(cursor=end.cursor)).items] == [late.span_id]
    own = await store.read_spans(rollout_id=one.rollout_id, limit=2)
    assert own.items == [written[0], written[2]]
    assert (await store.read_spans(rollout_id=one.rollout_id, cursor=own.cursor)).items == [written[4]]
    assert (await store.read_spans(rollout_id="ro-unknown")).items == []


@law
async def spans_are_iterated_however_small_the_batch(store: LightningStore) -> None:
    one, two = await running(store), await running(store)
    written = [span_of(claim, number) for number in range(7) for claim in (one, two)]
    await store.add_many_spans(written)
    for batch in (1, 3, 100):
        spans = [span async for span in store.iterate_spans(one.rollout_id, batch=batch)]
        assert spans == written[::2]
        ids = [span.span_id async for span in store.iterate_spans(batch=batch)]
        assert sorted(ids) == sorted(span.span_id for span in written)


@law
async def feed_without_a_sensible_place_or_amount_is_refused(store: LightningStore) -> None:
    for wrong in ({"limit": 0}, {"limit": -1}, {"limit": "1"}, {"cursor": "0"}, {"cursor": 2**70}, {"cursor": None}):
        arguments: dict[str, Any] = wrong
        await refused(InvalidValue, store.read_finished_rollouts(**arguments))
        await refused(InvalidValue, store.read_spans(**arguments))
    no_text: Any = 5
    await refused(InvalidValue, store.read_spans(rollout_id=no_text))
