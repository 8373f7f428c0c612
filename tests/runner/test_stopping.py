"""How `iter` ends when it is told to, and what it does while its store is away."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentlightning.errors import StoreError, StoreUnreachable
from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import rollout
from agentlightning.runner import LitAgentRunner, terminating
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import DummyTracer
from agentlightning.types import Hook

DEADLINE = 10.0


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.retry.FIRST_PAUSE", 0.001)


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


def make(**options: Any) -> LitAgentRunner[Any]:
    return LitAgentRunner[Any](DummyTracer(), heartbeat_interval=0, **options)


class Waiting:
    """An agent that waits to be let go."""

    def __init__(self) -> None:
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.agent = rollout(self._run)

    async def _run(self, task: str) -> float:
        self.started.set()
        await self.go_on.wait()
        return 1.0


async def statuses(store: InMemoryLightningStore) -> list[str]:
    return [item.status for item in await store.query_rollouts(sort_by="start_time")]


async def test_after_the_grace_running_rollouts_are_stopped(store: InMemoryLightningStore) -> None:
    waiting, event = Waiting(), ThreadingEvent()
    for task in range(3):
        await store.enqueue_rollout(task)
    runner = make(max_concurrency=2, stop_grace=0.01)
    with runner.run_context(agent=waiting.agent, store=store):
        task = asyncio.create_task(runner.iter(event=event))
        await waiting.started.wait()
        event.set()
        async with asyncio.timeout(DEADLINE):
            await task
    assert await statuses(store) == ["failed", "failed", "queuing"]
    (attempt,) = await store.query_attempts((await store.query_rollouts(sort_by="start_time"))[0].rollout_id)
    assert (attempt.metadata or {})["error"] == {
        "type": "RolloutCancelled",
        "message": "the runner was told to stop, and the agent did not end within 0.01 s",
    }


async def test_within_the_grace_running_rollouts_end_as_they_do(store: InMemoryLightningStore) -> None:
    waiting, event = Waiting(), ThreadingEvent()
    await store.enqueue_rollout("task")
    runner = make(stop_grace=DEADLINE)
    with runner.run_context(agent=waiting.agent, store=store):
        task = asyncio.create_task(runner.iter(event=event))
        await waiting.started.wait()
        event.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        waiting.go_on.set()
        async with asyncio.timeout(DEADLINE):
            await task
    assert await statuses(store) == ["succeeded"]


async def test_the_event_stops_the_last_rollouts_of_a_quota_too(store: InMemoryLightningStore) -> None:
    waiting, event = Waiting(), ThreadingEvent()
    await store.enqueue_rollout("task")
    runner = make(max_rollouts=1, stop_grace=0.0)
    with runner.run_context(agent=waiting.agent, store=store):
        task = asyncio.create_task(runner.iter(event=event))
        await waiting.started.wait()
        event.set()
        async with asyncio.timeout(DEADLINE):
            await task
    assert await statuses(store) == ["failed"]


@pytest.mark.parametrize("max_rollouts", [0, 1])
async def test_no_more_than_the_quota_is_claimed(store: InMemoryLightningStore, max_rollouts: int) -> None:
    for task in range(2):
        await store.enqueue_rollout(task)
    runner = make(max_rollouts=max_rollouts, max_concurrency=8)
    with runner.run_context(agent=rollout(lambda task: 1.0), store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    assert await statuses(store) == ["succeeded"] * max_rollouts + ["queuing"] * (2 - max_rollouts)


# -- a store that is away ----------------------------------------------------------------------------------------------


class Away:
    """Makes operations of a store fail until it is back."""

    def __init__(self, store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.asked = asyncio.Event()
        self.is_back = False
        for name in names:
            monkeypatch.setattr(store, name, self._instead_of(getattr(store, name)))

    def _instead_of(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            if self.is_back:
                return await operation(*args, **options)
            self.asked.set()
            raise StoreUnreachable("nobody answers")

        return call


async def test_the_event_ends_the_wait_for_a_store_that_is_away(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, event = Away(store, monkeypatch, "dequeue_many_rollouts"), ThreadingEvent()
    runner = make(max_outage=1000.0)
    with runner.run_context(agent=rollout(lambda task: 1.0), store=store):
        task = asyncio.create_task(runner.iter(event=event))
        await away.asked.wait()
        event.set()
        async with asyncio.timeout(DEADLINE):
            await task


async def test_what_runs_ends_before_iter_gives_its_store_up(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting()
    await store.enqueue_rollout("task")
    runner = make(max_concurrency=3, max_outage=0.0)
    with runner.run_context(agent=waiting.agent, store=store):
        task = asyncio.create_task(runner.iter())
        await waiting.started.wait()
        away = Away(store, monkeypatch, "dequeue_many_rollouts")
        await store.enqueue_rollout("ends the wait that was under way")
        async with asyncio.timeout(DEADLINE):
            await away.asked.wait()
            for _ in range(10):
                await asyncio.sleep(0)
            assert not task.done()
            waiting.go_on.set()
            with pytest.raises(StoreError, match="nobody answers"):
                await task
    assert await statuses(store) == ["succeeded", "succeeded"]


@pytest.mark.parametrize("name", ["update_attempt", "get_latest_resources", "dequeue_many_rollouts"])
async def test_an_outage_in_any_operation_is_ridden_out(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    await store.enqueue_rollout("task")
    away = Away(store, monkeypatch, name)
    runner = make(max_rollouts=1)
    with runner.run_context(agent=rollout(lambda task: 1.0), store=store):
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(runner.iter())
            await away.asked.wait()
            away.is_back = True
    assert await statuses(store) == ["succeeded"]


# -- hooks and the log -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["on_trace_end", "on_rollout_end"])
async def test_a_hook_that_hangs_at_the_end_is_given_up(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setattr("agentlightning.runner.hooks.END_DEADLINE", 0.01)

    async def hang(**details: Any) -> None:
        await asyncio.Event().wait()

    hook = Hook()
    monkeypatch.setattr(hook, name, hang)
    runner = make()
    with runner.run_context(agent=rollout(lambda task: 1.0), store=store, hooks=[hook]):
        async with asyncio.timeout(DEADLINE):
            done = await runner.step("task")
    assert done.status == "succeeded"
    assert f"{name} of Hook failed" in caplog.text


async def test_the_log_tells_of_each_rollout_and_of_every_tenth_start(
    store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agentlightning.runner")
    for task in range(20):
        await store.enqueue_rollout(task)
    runner = make(max_rollouts=20)
    with runner.run_context(agent=rollout(lambda task: 0.5), store=store, worker_id=3):
        await runner.iter()
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "Starts" in line] == [
        f"[Worker-3] Starts rollout {number} of 20" for number in (1, 10, 20)
    ]
    ended = [line for line in lines if line.endswith("1 spans, final reward 0.5")]
    assert len(ended) == 20
    assert all(line.startswith("[Worker-3 | Rollout ro-") for line in ended)


# -- SIGTERM -----------------------------------------------------------------------------------------------------------


async def test_sigterm_sets_the_event_and_the_handler_goes_with_the_block() -> None:
    before, event, own = signal.getsignal(signal.SIGTERM), ThreadingEvent(), asyncio.Event()
    event.subscribe(own.set)
    with terminating(event):
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(DEADLINE):
            await own.wait()
    assert event.is_set()
    assert signal.getsignal(signal.SIGTERM) == before


async def test_a_second_sigterm_cancels_what_is_still_running(store: InMemoryLightningStore) -> None:
    waiting, event, told = Waiting(), ThreadingEvent(), asyncio.Event()
    event.subscribe(told.set)
    await store.enqueue_rollout("task")
    runner = make(stop_grace=1000.0)

    async def serve() -> None:
        with runner.run_context(agent=waiting.agent, store=store), terminating(event):
            await runner.iter(event=event)

    task = asyncio.create_task(serve())
    await waiting.started.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await told.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(DEADLINE):
            await task
    assert await statuses(store) == ["failed"]


async def test_spans_wait_for_a_store_no_longer_than_its_outage_may_last(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.store.retry.FIRST_PAUSE", 0.001)
    Away(store, monkeypatch, "add_many_spans")
    await store.enqueue_rollout("task")
    runner = make(max_rollouts=1, max_outage=0.01)
    with runner.run_context(agent=rollout(lambda task: 1.0), store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    assert await statuses(store) == ["failed"]
