"""The runner in another language keeps its claims, and survives the loss of one."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.doctor.scripted_model import ScriptedModel
from tests.examples.programs import DEADLINE, EXAMPLES, running

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")

PROGRAM = EXAMPLES / "rest_runner" / "runner.mjs"
HASTY = "const slow = setInterval; globalThis.setInterval = (work, ms) => slow(work, ms / 200);"
"""Lets heartbeats come within the time that a test has."""


class SlowModel:
    """Answers its first call once it is let go."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self, _request: Any) -> str:
        self.asked.set()
        assert self.go.wait(DEADLINE)
        return "42"


@pytest.fixture
async def server() -> AsyncIterator[agl.LightningStoreServer]:
    store = agl.InMemoryLightningStore()
    server = agl.LightningStoreServer(store, port=0)
    await server.start()
    yield server
    await server.stop()
    await store.close()


@asynccontextmanager
async def gateway_of(server: agl.LightningStoreServer, slow: SlowModel) -> AsyncIterator[agl.LLMProxy]:
    async with ScriptedModel(slow) as model:
        proxy = agl.LLMProxy(model_list=model.model_list, store=server)
        await proxy.start()
        try:
            yield proxy
        finally:
            slow.go.set()
            await proxy.stop()


async def enqueued(store: agl.LightningStore, proxy: agl.LLMProxy, config: agl.RolloutConfig) -> str:
    await store.add_resources({"llm": proxy.as_resource()})
    task = {"question": "17 + 25", "answer": "42"}
    return (await store.enqueue_rollout(task, "train", config=config)).rollout_id


async def test_a_slow_model_costs_no_rollout(server: agl.LightningStoreServer) -> None:
    slow = SlowModel()
    async with gateway_of(server, slow) as proxy:
        rollout_id = await enqueued(server, proxy, agl.RolloutConfig(unresponsive_seconds=DEADLINE))
        async with running("node", "--import", f"data:text/javascript,{HASTY}", PROGRAM, server.endpoint):
            assert await asyncio.to_thread(slow.asked.wait, DEADLINE)
            asked = await heartbeat_of(server, "node-1")
            async with asyncio.timeout(DEADLINE):
                while await heartbeat_of(server, "node-1") == asked:  # noqa: ASYNC110  # another process beats
                    await asyncio.sleep(0.02)
            slow.go.set()
            done = await server.wait_for_rollout(rollout_id, timeout=DEADLINE)
    assert done is not None
    assert done.status == "succeeded"


async def test_an_attempt_that_was_lost_does_not_end_the_runner(server: agl.LightningStoreServer) -> None:
    slow = SlowModel()
    async with gateway_of(server, slow) as proxy:
        config = agl.RolloutConfig(max_attempts=2, retry_condition=["failed"])
        first = await enqueued(server, proxy, config)
        async with running("node", PROGRAM, server.endpoint):
            assert await asyncio.to_thread(slow.asked.wait, DEADLINE)
            await server.update_attempt(first, "latest", status="failed")
            (again,) = await server.dequeue_many_rollouts(worker_id="another")
            await server.update_attempt(first, again.attempt.attempt_id, status="running")
            second = await enqueued(server, proxy, config)
            slow.go.set()
            done = await server.wait_for_rollout(second, timeout=DEADLINE)
    assert done is not None
    assert done.status == "succeeded"


async def heartbeat_of(store: agl.LightningStore, worker_id: str) -> float | None:
    worker = await store.get_worker_by_id(worker_id)
    return worker and worker.last_heartbeat_time
