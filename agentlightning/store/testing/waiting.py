"""Laws: Waiting, and claims whose caller went away."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import asyncio
import time
from typing import Any

from agentlightning.errors import InvalidValue
from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import PATIENCE, law, refused, running, soon
from agentlightning.types import EnqueueRolloutRequest, Rollout


@law
async def wait_returns_what_finished_in_the_order_asked(store: LightningStore) -> None:
    claims = [await running(store) for _ in range(3)]
    ids = [claim.rollout_id for claim in claims]
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[ids[2], "ro-unknown", ids[0], ids[2]]))
    for claim in claims:
        assert not waiting.done()
        await store.update_attempt(claim.rollout_id, "latest", status="succeeded")
    finished = await soon(waiting)
    assert [rollout.rollout_id for rollout in finished] == [ids[2], ids[0], ids[2]]
    assert all(type(rollout) is Rollout for rollout in finished)


@law
async def wait_ends_at_its_deadline_with_what_there_is(store: LightningStore) -> None:
    done, open_ = await running(store), await running(store)
    await store.update_rollout(done.rollout_id, status="failed")
    for timeout in (0, -1, 0.05):
        finished = await soon(store.wait_for_rollouts(rollout_ids=[open_.rollout_id, done.rollout_id], timeout=timeout))
        assert [rollout.rollout_id for rollout in finished] == [done.rollout_id]
    assert await soon(store.wait_for_rollouts(rollout_ids=["ro-unknown"])) == []
    assert await soon(store.wait_for_rollouts(rollout_ids=[])) == []


@law
async def waits_that_are_no_number_of_seconds_are_refused(store: LightningStore) -> None:
    waits: list[Any] = ["1", float("nan"), [1.0]]
    for bad in waits:
        await refused(InvalidValue, soon(store.dequeue_rollout("w", wait=bad)))
        await refused(InvalidValue, soon(store.read_finished_rollouts(wait=bad)))
        await refused(InvalidValue, soon(store.wait_for_rollouts(rollout_ids=["ro-unknown"], timeout=bad)))


@law
async def wait_of_none_lasts_until_there_is_something(store: LightningStore) -> None:
    none: Any = None
    work = asyncio.create_task(store.dequeue_rollout("w", wait=none))
    end = asyncio.create_task(store.read_finished_rollouts(wait=none))
    await asyncio.wait({work, end}, timeout=0.02)
    made = await store.enqueue_rollout(1)
    claim = await soon(work)
    assert claim is not None
    assert claim.rollout_id == made.rollout_id
    await store.update_rollout(made.rollout_id, status="failed")
    assert [rollout.rollout_id for rollout in (await soon(end)).items] == [made.rollout_id]


@law
async def one_rollout_is_waited_for_by_its_id(store: LightningStore) -> None:
    claim = await running(store)
    assert await store.wait_for_rollout(claim.rollout_id, 0) is None
    assert await soon(store.wait_for_rollout("ro-unknown")) is None
    waiting = asyncio.create_task(store.wait_for_rollout(claim.rollout_id))
    await store.update_rollout(claim.rollout_id, status="failed")
    finished = await soon(waiting)
    assert finished is not None
    assert (finished.rollout_id, finished.status) == (claim.rollout_id, "failed")


@law
async def restart_makes_waiters_wait_again(store: LightningStore) -> None:
    first, second = await running(store), await running(store)
    await store.update_rollout(first.rollout_id, status="succeeded")
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[first.rollout_id, second.rollout_id]))
    await store.start_attempt(first.rollout_id)
    await store.update_rollout(second.rollout_id, status="succeeded")
    early = await store.wait_for_rollouts(rollout_ids=[first.rollout_id], timeout=0.05)
    assert early == []
    assert not waiting.done()
    await store.update_rollout(first.rollout_id, status="failed")
    assert [rollout.status for rollout in await soon(waiting)] == ["failed", "succeeded"]


@law
async def many_waiters_of_one_rollout_all_wake(store: LightningStore) -> None:
    claim = await running(store)
    waits = [asyncio.create_task(store.wait_for_rollouts(rollout_ids=[claim.rollout_id])) for _ in range(5)]
    await asyncio.sleep(0)
    await store.update_rollout(claim.rollout_id, status="succeeded")
    assert [len(finished) for finished in await soon(asyncio.gather(*waits))] == [1] * 5


@law
async def cancelled_wait_ends_at_once(store: LightningStore) -> None:
    claim = await running(store)
    for waiting in (
        asyncio.ensure_future(store.wait_for_rollouts(rollout_ids=[claim.rollout_id])),
        asyncio.ensure_future(store.dequeue_rollout(wait=60)),
    ):
        await asyncio.wait({waiting}, timeout=0.02)
        waiting.cancel()
        done, _ = await asyncio.wait({waiting}, timeout=PATIENCE)
        assert done
        assert waiting.cancelled()


@law
async def waiting_dequeues_share_what_comes(store: LightningStore) -> None:
    waits = [asyncio.create_task(store.dequeue_rollout(f"w{i}", wait=60)) for i in range(4)]
    await asyncio.wait(waits, timeout=0.02)
    made = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(3)])
    await store.enqueue_rollout("last")
    claims = await soon(asyncio.gather(*waits))
    claimed = {claim.rollout_id for claim in claims if claim}
    assert len(claimed) == 4
    assert claimed >= {rollout.rollout_id for rollout in made}


@law
async def waiting_dequeue_hears_of_a_retry(store: LightningStore) -> None:
    claim = await running(store, max_attempts=2, retry_condition=["failed"])
    waiting = asyncio.create_task(store.dequeue_many_rollouts(limit=3, wait=60))
    await asyncio.wait({waiting}, timeout=0.02)
    await store.update_attempt(claim.rollout_id, "latest", status="failed")
    assert [again.rollout_id for again in await soon(waiting)] == [claim.rollout_id]


@law
async def waiting_dequeue_gives_up_at_its_deadline(store: LightningStore) -> None:
    start = time.monotonic()
    assert await soon(store.dequeue_rollout("w", wait=0.05)) is None
    assert time.monotonic() - start >= 0.04


@law
async def cancelled_claim_is_handed_out_again(store: LightningStore) -> None:
    """Wherever the cancellation strikes: before the claim, while it runs, after its commit, at its delivery."""
    made = [await store.enqueue_rollout(i) for i in range(10)]
    for steps in range(10):
        claiming = asyncio.create_task(store.dequeue_many_rollouts(limit=2, worker_id="w"))
        for _ in range(steps):
            await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.wait({claiming}, timeout=PATIENCE)
        if not claiming.cancelled():
            for claim in claiming.result():
                await store.update_rollout(claim.rollout_id, status="succeeded")
    while (claim := await store.dequeue_rollout(wait=0.1)) is not None:
        await store.update_rollout(claim.rollout_id, status="succeeded")
    assert [rollout.status for rollout in await store.query_rollouts()] == ["succeeded"] * len(made)
