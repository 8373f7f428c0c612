from __future__ import annotations

import pickle
from typing import Any, cast

import pytest

import agentlightning as agl
from agentlightning.errors import ConfigurationError
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


class Watching(agl.Hook):
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_rollout_end(self, *, rollout: agl.Rollout, **details: Any) -> None:
        self.seen.append(rollout.rollout_id)


async def test_runner_at_work_is_sent_with_its_hooks_and_without_what_lives_here() -> None:
    store = agl.InMemoryLightningStore()
    sent: list[agl.LitAgentRunner[Any]] = []

    @agl.rollout
    async def sending(task: int) -> float:
        sent.append(pickle.loads(dumps(runner)))
        return 1.0

    hook = Watching()
    runner = agl.LitAgentRunner[Any](agl.OtelTracer(), worker_name="Sent", max_concurrency=3)
    with runner.run_context(agent=sending, store=store, hooks=[hook], worker_id=5):
        await runner.step(1)
    (there,) = sent
    assert there.get_worker_id() == "Sent-Unknown"
    with pytest.raises(ConfigurationError, match="no agent"):
        there.get_agent()
    with pytest.raises(ConfigurationError, match="no store"):
        there.get_store()
    (hook_there,) = cast("tuple[Watching]", vars(there)["_hooks"])
    assert hook_there is not hook
    assert (vars(there)["_max_concurrency"], len(hook.seen), hook_there.seen) == (3, 1, [])
    await store.close()
