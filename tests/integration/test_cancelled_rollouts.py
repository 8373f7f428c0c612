"""What ends in the store ends in its runner by the next heartbeat; what the runner holds, no heartbeat ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import pytest

from agentlightning.errors import RolloutCancelled
from agentlightning.litagent import rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.tracer import OtelTracer
from agentlightning.types import AttemptedRollout, Hook, Rollout, RolloutConfig
from agentlightning.types.lifecycle import LIVE, RUNNING

DEADLINE = 20.0
WORKER = "Worker-0"

Mode = Literal["asyncio", "thread"]


@pytest.fixture(params=["memory", "HTTP"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[LightningStore]:
    memory = InMemoryLightningStore()
    if request.param == "memory":
        yield memory
    else:
        server = LightningStoreServer(memory, port=0)
        await server.start()
        client = LightningStoreClient(server.endpoint)
        yield client
        await client.close()
        await server.stop()
    await memory.close()


@pytest.fixture(params=["asyncio", "thread"])
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


def make_runner(heartbeat_interval: float = 0.05, **options: Any) -> LitAgentRunner[Any]:
    return LitAgentRunner[Any](
        OtelTracer(), heartbeat_interval=heartbeat_interval, interval_jitter=0.0, poll_interval=0.05, **options
    )


class Patient:
    """An agent that waits to be cancelled on tasks that say so, and is done with others at once."""

    def __init__(self) -> None:
        self.started, self.stopped = asyncio.Event(), asyncio.Event()
        self.agent = rollout(self._run)

    async def _run(self, task: str) -> float:
        if task != "wait":
            return 1.0
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()
        raise AssertionError("unreachable: nobody sets the event")


async def finished(store: LightningStore, *rollouts: Rollout) -> list[Rollout]:
    ids = [rollout.rollout_id for rollout in rollouts]
    done = await store.wait_for_rollouts(rollout_ids=ids, timeout=DEADLINE)
    assert [rollout.rollout_id for rollout in done] == ids
    return done


async def attempt_statuses(store: LightningStore, rollout: Rollout) -> list[str]:
    return [attempt.status for attempt in await store.query_attempts(rollout.rollout_id)]


async def cancel(store: LightningStore, rollout: Rollout) -> None:
    await store.update_rollout(rollout.rollout_id, status="cancelled")


async def let_its_time_pass(store: LightningStore, rollout: Rollout) -> None:
    await store.update_attempt(rollout.rollout_id, "latest", status="timeout")


async def start_another(store: LightningStore, rollout: Rollout) -> None:
    await store.start_attempt(rollout.rollout_id, "other")


async def hand_over(store: LightningStore, rollout: Rollout) -> None:
    await store.update_attempt(rollout.rollout_id, "latest", worker_id="other")


# -- what ends in the store --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (cancel, ("cancelled", ["failed"])),
        (let_its_time_pass, ("failed", ["timeout"])),
    ],
)
async def test_an_attempt_that_ends_in_the_store_stops_its_agent_and_frees_its_slot(
    store: LightningStore,
    mode: Mode,
    end: Callable[[LightningStore, Rollout], Awaitable[None]],
    expected: tuple[str, list[str]],
) -> None:
    patient, runner = Patient(), make_runner(max_rollouts=2, heartbeat_launch_mode=mode)
    ending, following = await store.enqueue_rollout("wait"), await store.enqueue_rollout("go on")
    with runner.run_context(agent=patient.agent, store=store):
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(runner.iter())
            await patient.started.wait()
            await end(store, ending)
            await patient.stopped.wait()
    first, second = await finished(store, ending, following)
    assert second.status == "succeeded"
    assert (first.status, await attempt_statuses(store, first)) == expected


@pytest.mark.parametrize("give", [start_another, hand_over])
async def test_a_rollout_given_to_another_worker_stops_its_agent_and_lives_on_there(
    store: LightningStore, give: Callable[[LightningStore, Rollout], Awaitable[None]]
) -> None:
    patient, runner = Patient(), make_runner(max_rollouts=2)
    given, following = await store.enqueue_rollout("wait"), await store.enqueue_rollout("go on")
    with runner.run_context(agent=patient.agent, store=store):
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(runner.iter())
            await patient.started.wait()
            await give(store, given)
            await patient.stopped.wait()
    assert [done.status for done in await finished(store, following)] == ["succeeded"]
    found = await store.get_rollout_by_id(given.rollout_id)
    assert isinstance(found, AttemptedRollout)
    assert found.attempt.worker_id == "other"
    assert found.status in RUNNING
    assert found.attempt.status in LIVE


async def test_an_attempt_whose_time_is_over_stops_its_agent(store: LightningStore) -> None:
    patient, runner = Patient(), make_runner(max_rollouts=2)
    config = RolloutConfig(timeout_seconds=0.1)
    ending, following = await store.enqueue_rollout("wait", config=config), await store.enqueue_rollout("go on")
    with runner.run_context(agent=patient.agent, store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    assert patient.stopped.is_set()
    assert [done.status for done in await finished(store, ending, following)] == ["failed", "succeeded"]
    assert await attempt_statuses(store, ending) == ["timeout"]


async def test_an_agent_in_a_thread_is_given_up_and_its_slot_is_free(
    store: LightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    release, started, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()

    def agent(task: str) -> float:
        if task == "wait":
            loop.call_soon_threadsafe(started.set)
            release.wait(DEADLINE)
        return 1.0

    ending, following = await store.enqueue_rollout("wait"), await store.enqueue_rollout("go on")
    runner = make_runner(max_rollouts=2)
    with runner.run_context(agent=rollout(agent), store=store):
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(runner.iter())
            await started.wait()
            await cancel(store, ending)
    release.set()
    assert [done.status for done in await finished(store, ending, following)] == ["cancelled", "succeeded"]
    assert f"The agent of rollout {ending.rollout_id} is given up" in caplog.text


async def test_stopping_is_told_once_and_is_no_failure(store: LightningStore, caplog: pytest.LogCaptureFixture) -> None:
    patient, runner = Patient(), make_runner(max_rollouts=1)
    ending = await store.enqueue_rollout("wait")
    with runner.run_context(agent=patient.agent, store=store):
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(runner.iter())
            await patient.started.wait()
            await cancel(store, ending)
    (record,) = [record for record in caplog.records if ending.rollout_id in record.getMessage()]
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    assert "ended in the store" in record.getMessage()


async def test_a_step_whose_rollout_is_cancelled_says_so(store: LightningStore, mode: Mode) -> None:
    patient, runner = Patient(), make_runner(heartbeat_launch_mode=mode)
    with runner.run_context(agent=patient.agent, store=store):
        async with asyncio.timeout(DEADLINE):
            stepping = asyncio.create_task(runner.step("wait"))
            await patient.started.wait()
            (found,) = await store.query_rollouts()
            await cancel(store, found)
            with pytest.raises(RolloutCancelled, match="ended in the store"):
                await stepping
    assert [done.status for done in await finished(store, found)] == ["cancelled"]
    assert not stepping.cancelled()


async def test_a_step_whose_rollout_is_cancelled_after_its_agent_ended_says_so(
    store: LightningStore,
) -> None:
    class CancelLate(Hook):
        async def on_rollout_end(self, *, rollout: AttemptedRollout, **details: Any) -> None:
            await cancel(store, rollout)

    runner = make_runner(heartbeat_interval=0.01)
    with runner.run_context(agent=Patient().agent, store=store, hooks=[CancelLate()]):
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(RolloutCancelled):
                await runner.step("go on")
    (rollout,) = await store.query_rollouts()
    assert rollout.status == "cancelled"


# -- what no heartbeat ends --------------------------------------------------------------------------------------------


async def test_what_a_runner_holds_is_never_released(store: LightningStore, mode: Mode) -> None:
    """Short rollouts on many slots, with heartbeats as often as they can be: each runs once."""
    count, ran = 200, Counter[int]()

    async def agent(task: int) -> float:
        ran[task] += 1
        await asyncio.sleep(0.001 * (task % 30))
        return 1.0

    for task in range(count):
        await store.enqueue_rollout(task)
    runner = make_runner(0.01, max_rollouts=count, max_concurrency=8, heartbeat_launch_mode=mode)
    with runner.run_context(agent=rollout(agent), store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    assert ran == Counter(range(count))
    for completed in await store.query_rollouts():
        assert (completed.status, await attempt_statuses(store, completed)) == ("succeeded", ["succeeded"])


async def test_a_claim_that_never_reached_the_runner_returns_to_the_queue_and_is_run(
    store: LightningStore, mode: Mode
) -> None:
    orphan = await store.enqueue_rollout("go on")
    assert await store.dequeue_rollout(WORKER) is not None
    runner = make_runner(max_rollouts=1, heartbeat_launch_mode=mode)
    with runner.run_context(agent=Patient().agent, store=store):
        assert runner.get_worker_id() == WORKER
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    assert [done.status for done in await finished(store, orphan)] == ["succeeded"]
    assert await attempt_statuses(store, orphan) == ["succeeded"]


async def test_a_claim_that_never_reached_the_runner_is_found_while_it_works(store: LightningStore) -> None:
    started = asyncio.Event()

    async def agent(task: str) -> None:
        if task == "until the other is back":
            started.set()
            while not await store.query_rollouts(status_in=["queuing"]):
                pass

    runner = make_runner(max_rollouts=2)
    busy = await store.enqueue_rollout("until the other is back")
    with runner.run_context(agent=rollout(agent), store=store):
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(runner.iter())
            await started.wait()
            orphan = await store.enqueue_rollout("the other")
            assert await store.dequeue_rollout(WORKER) is not None
    for completed in await finished(store, busy, orphan):
        assert (completed.status, await attempt_statuses(store, completed)) == ("succeeded", ["succeeded"])
