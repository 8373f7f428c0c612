from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import agentlightning as agl
from agentlightning._internal.aio import wait_for_flag
from agentlightning.errors import ExecutionError
from agentlightning.execution.events import ExecutionEvent, ThreadingEvent
from agentlightning.execution.ray_supervisor import RaySupervision, RaySupervisor
from agentlightning.processes.failure import Failure

exceptions = pytest.importorskip("ray.exceptions")

NAME = "it"


class ScriptedMember:
    """Lives through what it is told.

    Args:
        lives: For each life what becomes of it: an error of Ray, a failure, "runs" until it is stopped, or "ends".
            It never comes up once they are used up.
    """

    def __init__(self, *lives: Exception | Failure | str) -> None:
        self._lives: Iterator[Exception | Failure | str] = iter(lives)
        self._life: Exception | Failure | str = ""
        self.killed = self.cancelled = self.ended_well = False

    async def up(self) -> None:
        try:
            self._life = next(self._lives)
        except StopIteration:
            await asyncio.Event().wait()
        if isinstance(self._life, exceptions.ActorDiedError):
            raise self._life

    async def run(self, event: ExecutionEvent) -> Failure | None:
        if isinstance(self._life, Exception):
            raise self._life
        if isinstance(self._life, Failure):
            return self._life
        try:
            if self._life == "runs":
                await wait_for_flag(event)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.ended_well = True
        return None

    async def kill(self) -> None:
        self.killed = True


class Cluster:
    """A supervisor of scripted members, and a store in which each of them may hold a rollout."""

    def __init__(self, *members: ScriptedMember, min_runners: int = 1, start_seconds: float = 60.0) -> None:
        self.members = members
        self.store = agl.InMemoryLightningStore()
        self.event = ThreadingEvent()
        supervision = RaySupervision(len(members), min_runners, start_seconds, "num_cpus=1")
        start: Any = self.members.__getitem__
        self.supervisor = RaySupervisor(start, lambda number: {f"{NAME}-{number}"}, self.store, supervision)

    async def run(self) -> None:
        async with asyncio.timeout(60):
            await self.supervisor.run(self.event)

    async def claimed(self, number: int) -> agl.AttemptedRollout:
        await self.store.enqueue_rollout("task")
        (rollout,) = await self.store.dequeue_many_rollouts(worker_id=f"{NAME}-{number}")
        return rollout


def died() -> Exception:
    return exceptions.ActorDiedError()


def unavailable() -> Exception:
    return exceptions.ActorUnavailableError("it is away", b"1" * 16)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.execution.ray_supervisor.room", lambda: "the cluster has none")


async def test_all_end_once_the_event_is_set_also_those_that_never_came_up() -> None:
    cluster = Cluster(ScriptedMember("runs"), ScriptedMember())
    running = asyncio.create_task(cluster.run())
    await asyncio.sleep(0)
    cluster.event.set()
    await running
    assert [member.killed for member in cluster.members] == [True, True]
    assert not any(member.cancelled for member in cluster.members)


async def test_claims_of_one_that_died_are_released_and_it_runs_again() -> None:
    cluster = Cluster(ScriptedMember(unavailable(), "ends"), ScriptedMember("ends"))
    lost, kept = await cluster.claimed(0), await cluster.claimed(1)
    await cluster.run()
    for rollout, status in ((lost, "failed"), (kept, "preparing")):
        seen = await cluster.store.get_rollout_by_id(rollout.rollout_id)
        assert seen is not None
        assert seen.status == status


async def test_error_of_a_runner_is_raised_and_cancels_the_others() -> None:
    cluster = Cluster(ScriptedMember("runs"), ScriptedMember(Failure.of(LookupError("on purpose"))))
    with pytest.raises(LookupError, match="on purpose") as caught:
        await cluster.run()
    assert "runner 1" in caught.value.__notes__[0]
    assert cluster.members[0].cancelled
    assert cluster.members[0].killed


async def test_run_ends_when_too_few_are_left() -> None:
    cluster = Cluster(ScriptedMember("runs"), ScriptedMember(died()), ScriptedMember(died()), min_runners=2)
    with pytest.raises(ExecutionError, match="1 of 3 runners are there, and there must be 2: runner 2 ended for good"):
        await cluster.run()
    assert all(member.killed for member in cluster.members)


@pytest.mark.usefixtures("room")
async def test_run_ends_when_too_few_find_a_place() -> None:
    cluster = Cluster(ScriptedMember("runs"), ScriptedMember(), min_runners=2, start_seconds=0.1)
    with pytest.raises(
        ExecutionError,
        match=r"1 of 2 runners .* must be 2 after 0.1 s: each asks for num_cpus=1, and the cluster has none",
    ):
        await cluster.run()


@pytest.mark.usefixtures("room")
async def test_run_ends_when_those_that_died_find_no_place_again() -> None:
    cluster = Cluster(ScriptedMember(unavailable()), start_seconds=0.1)
    with pytest.raises(ExecutionError, match="0 of 1 runners are there"):
        await cluster.run()


async def test_run_ends_when_the_cluster_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray waits for a lost head node for good, and so would the loop that asks it."""
    over = threading.Event()
    module = "agentlightning.execution.ray_supervisor"
    monkeypatch.setattr(f"{module}.room", lambda: over.wait(60))
    monkeypatch.setattr(f"{module}._ASK_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(f"{module}._ANSWER_SECONDS", 0.05)
    cluster = Cluster(ScriptedMember(unavailable()), start_seconds=3600)
    try:
        with pytest.raises(ExecutionError, match=r"0 of 1 runners .* after 0.05 s: .* and the cluster does not answer"):
            await cluster.run()
        assert not over.is_set()
    finally:
        over.set()


async def test_cluster_that_answers_has_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "agentlightning.execution.ray_supervisor"
    asked = threading.Event()
    monkeypatch.setattr(f"{module}.room", lambda: asked.set() or "the cluster has none")
    monkeypatch.setattr(f"{module}._ASK_AFTER_SECONDS", 0.05)
    cluster = Cluster(ScriptedMember(), start_seconds=3600)
    running = asyncio.create_task(cluster.run())
    assert await asyncio.to_thread(asked.wait, 60)
    await asyncio.wait({running}, timeout=0.1)
    assert not running.done()
    cluster.event.set()
    await running


async def test_those_that_used_up_their_quota_are_not_missed() -> None:
    cluster = Cluster(ScriptedMember("ends"), ScriptedMember("ends"), min_runners=2, start_seconds=0.1)
    await cluster.run()
    assert all(member.killed for member in cluster.members)


async def test_cancelling_it_cancels_all() -> None:
    cluster = Cluster(ScriptedMember("runs"), ScriptedMember())
    running = asyncio.create_task(cluster.run())
    async with asyncio.timeout(60):
        while not cluster.supervisor.there:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cluster.members[0].cancelled
    assert all(member.killed for member in cluster.members)
