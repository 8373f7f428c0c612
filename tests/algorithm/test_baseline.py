"""The algorithm that learns nothing."""

from __future__ import annotations

import asyncio

from agentlightning.algorithm import Baseline
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.store.limits import Limits


async def test_more_tasks_than_a_server_takes_at_once_are_run() -> None:
    store = InMemoryLightningStore()
    server = LightningStoreServer(store, port=0, launch_mode="asyncio", limits=Limits(items=1000))
    await server.start()
    async with LightningStoreClient(server.endpoint) as client:
        baseline = Baseline(span_verbosity="none")
        baseline.set_store(client)
        running = asyncio.create_task(baseline.run(list(range(1100))))
        async with asyncio.timeout(60):
            while not running.done():
                for claimed in await store.dequeue_many_rollouts(limit=100, wait=0.1):
                    await store.update_attempt(claimed.rollout_id, claimed.attempt.attempt_id, status="succeeded")
        await running
    assert (await store.query_rollouts(status_in=["succeeded"], limit=1)).total == 1100
    await server.stop()
    await store.close()
