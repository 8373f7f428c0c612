"""Laws: Threads, and the end of a store."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import asyncio
import threading

from agentlightning.errors import StoreClosed
from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import PATIENCE, law, refused, running, soon
from agentlightning.types import EnqueueRolloutRequest


@law
async def other_threads_and_loops_use_the_store(store: LightningStore) -> None:
    if not store.capabilities.get("thread_safe"):
        return
    claim = await running(store)
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[claim.rollout_id]))
    failures: list[BaseException] = []

    async def work() -> None:
        await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(5)])
        await store.update_rollout(claim.rollout_id, status="succeeded")
        assert len(await store.wait_for_rollouts(rollout_ids=[claim.rollout_id], timeout=PATIENCE)) == 1

    def in_thread() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001  # raised again in the thread of the test
            failures.append(error)

    threads = [threading.Thread(target=in_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
    assert failures == []
    assert len(await soon(waiting)) == 1
    assert (await store.query_rollouts(status_in=["queuing"])).total == 15


@law
async def closed_store_finishes_what_it_accepted_and_refuses_the_rest(store: LightningStore) -> None:
    claim = await running(store)
    accepted = [asyncio.create_task(store.enqueue_rollout(i)) for i in range(20)]
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[claim.rollout_id]))
    starving = asyncio.create_task(store.update_worker("w"))
    await asyncio.sleep(0)
    await soon(store.close())
    assert len(await soon(asyncio.gather(*accepted))) == 20
    assert (await soon(starving)).worker_id == "w"
    await refused(StoreClosed, soon(waiting))
    await refused(StoreClosed, store.enqueue_rollout(1))
    await refused(StoreClosed, store.query_rollouts())
    await soon(store.close())
