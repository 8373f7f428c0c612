from __future__ import annotations

import pickle
from typing import Any

import agentlightning as agl
from agentlightning.processes.pickling import dumps


@agl.rollout
async def double(task: int) -> float:
    return task * 2.0


async def test_runner_that_worked_here_works_in_another_process_with_its_settings() -> None:
    store = agl.InMemoryLightningStore()
    runner = agl.LitAgentRunner[Any](agl.OtelTracer(), max_rollouts=3, worker_name="Sent")
    with runner.run_context(agent=double, store=store, worker_id=5):
        await runner.step(1)
    sent: agl.LitAgentRunner[Any] = pickle.loads(dumps(runner))
    for task in range(4):
        await store.enqueue_rollout(task)
    assert sent.get_worker_id() == "Sent-Unknown"
    with sent.run_context(agent=double, store=store, worker_id=7):
        await sent.iter()
    finished = await store.query_rollouts(status_in=["succeeded"])
    assert len(finished) == 1 + 3
    await store.close()
