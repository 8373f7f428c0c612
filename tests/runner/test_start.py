"""A step starts its rollout as patiently as the queue is asked, and leaves nothing behind that was not ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlightning.errors import RolloutCancelled, StoreError
from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import DummyTracer
from agentlightning.types import PromptTemplate

DEADLINE = 30.0
RESOURCES: Any = {"prompt": PromptTemplate(template="{x}", engine="f-string")}


@rollout
async def agent(task: str) -> float:
    return 1.0


class Away(InMemoryLightningStore):
    """Fails some calls of each operation that a step begins and ends with."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.left: dict[str, int] = dict.fromkeys(("add_resources", "start_rollout", "get_rollout_by_id"), failures)
        self.was_asked = asyncio.Event()

    def fail(self, operation: str) -> None:
        if self.left[operation]:
            self.left[operation] -= 1
            self.was_asked.set()
            raise StoreError("not now")

    async def add_resources(self, *args: Any, **options: Any) -> Any:
        self.fail("add_resources")
        return await super().add_resources(*args, **options)

    async def start_rollout(self, *args: Any, **options: Any) -> Any:
        self.fail("start_rollout")
        return await super().start_rollout(*args, **options)

    async def get_rollout_by_id(self, *args: Any, **options: Any) -> Any:
        self.fail("get_rollout_by_id")
        return await super().get_rollout_by_id(*args, **options)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.retry.FIRST_PAUSE", 0.001)


@pytest.fixture
async def patient() -> AsyncIterator[Away]:
    store = Away(3)
    yield store
    await store.close()


@pytest.fixture
async def gone() -> AsyncIterator[Away]:
    store = Away(10**9)
    yield store
    await store.close()


def step(store: InMemoryLightningStore, max_outage: float, **options: Any) -> asyncio.Task[Any]:
    async def run() -> Any:
        runner = LitAgentRunner[Any](DummyTracer(), heartbeat_interval=0, max_outage=max_outage)
        with runner.run_context(agent=agent, store=store):
            async with asyncio.timeout(DEADLINE):
                return await runner.step("task", **options)

    return asyncio.create_task(run())


async def test_a_store_that_is_away_for_a_while_costs_a_step_nothing(patient: Away) -> None:
    completed = await step(patient, DEADLINE, resources=RESOURCES)
    assert completed.status == "succeeded"
    assert set(patient.left.values()) == {0}
    assert [each.rollout_id for each in await patient.query_rollouts()] == [completed.rollout_id]


async def test_a_store_that_stays_away_ends_a_step(gone: Away) -> None:
    with pytest.raises(StoreError, match="not now"):
        await step(gone, 0.05)


@pytest.mark.parametrize("how", ["event", "cancel"])
async def test_nobody_waits_for_a_store_any_more_who_was_told_to_stop(gone: Away, how: str) -> None:
    event = ThreadingEvent()
    task = step(gone, DEADLINE, event=event)
    await gone.was_asked.wait()
    event.set() if how == "event" else task.cancel()
    with pytest.raises(RolloutCancelled if how == "event" else asyncio.CancelledError):
        await task


@pytest.mark.parametrize("how", ["event", "cancel"])
async def test_what_was_started_is_ended_though_its_start_was_interrupted(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, event = InMemoryLightningStore(), ThreadingEvent()
    start, was_started, answers = store.start_rollout, asyncio.Event(), asyncio.Event()

    async def start_slowly(*args: Any, **options: Any) -> Any:
        started = await start(*args, **options)
        was_started.set()
        await answers.wait()
        return started

    monkeypatch.setattr(store, "start_rollout", start_slowly)
    task = step(store, DEADLINE, event=event)
    await was_started.wait()
    event.set() if how == "event" else task.cancel()
    asyncio.get_running_loop().call_later(0.05, answers.set)
    with pytest.raises(RolloutCancelled if how == "event" else asyncio.CancelledError):
        await task
    (ended,) = await store.query_rollouts()
    assert ended.status == "failed"
    await store.close()
