from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.parts import Order
from agentlightning.execution.ray_member import RayMember
from agentlightning.processes.failure import Failure


class Method:
    """An actor's method, called from afar."""

    def __init__(self, function: Callable[..., Future[Any]]) -> None:
        self._function = function

    def remote(self, *arguments: Any) -> Any:
        outcome = self._function(*arguments)
        return SimpleNamespace(future=lambda: outcome)


class Actor:
    """Runs until it is told otherwise.

    Args:
        listens: Whether it ends when it is told to.
    """

    def __init__(self, listens: bool = True) -> None:
        self.outcome: Future[Failure | None] = Future()
        self.told: list[Order] = []
        self.killed = False
        self.run = Method(lambda _: self.outcome)
        self.tell = Method(self._tell)
        self._listens = listens

    def _tell(self, order: Order) -> Future[None]:
        self.told.append(order)
        if self._listens:
            self.outcome.set_result(None)
        answer: Future[None] = Future()
        answer.set_result(None)
        return answer

    def die(self) -> None:
        self.killed = True
        self.outcome.set_exception(LookupError("killed"))


@pytest.fixture(autouse=True)
def _ray(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SimpleNamespace(kill=lambda actor: actor.die(), exceptions=SimpleNamespace(RayError=ConnectionError))
    monkeypatch.setattr("agentlightning.execution.ray_member.load_ray", lambda: ray)


async def begun(actor: Actor, cancel_seconds: float = 60.0) -> tuple[RayMember, asyncio.Task[Any], ThreadingEvent]:
    member, event = RayMember(actor, b"", "it", cancel_seconds), ThreadingEvent()
    running = asyncio.create_task(member.run(event))
    await asyncio.sleep(0)
    return member, running, event


async def test_event_stops_it() -> None:
    actor = Actor()
    member, running, event = await begun(actor)
    event.set()
    async with asyncio.timeout(60):
        assert await running is None
    assert actor.told == [Order.STOP]
    assert member.ended_well


async def test_failure_comes_back_and_is_no_good_end() -> None:
    actor = Actor()
    member, running, _ = await begun(actor)
    failure = Failure.of(LookupError("on purpose"))
    actor.outcome.set_result(failure)
    async with asyncio.timeout(60):
        assert await running is failure
    assert not member.ended_well


async def test_cancelling_lets_it_clean_up() -> None:
    actor = Actor()
    member, running, _ = await begun(actor)
    running.cancel()
    await asyncio.wait({running}, timeout=60)
    assert running.cancelled()
    assert actor.told == [Order.CANCEL]
    assert member.ended_well
    assert not actor.killed


@pytest.mark.parametrize("times", [1, 2], ids=["too late", "cancelled again"])
async def test_one_that_does_not_listen_is_dead_when_its_run_has_ended(times: int) -> None:
    actor = Actor(listens=False)
    member, running, _ = await begun(actor, cancel_seconds=600.0 if times == 2 else 0.01)
    for _ in range(times):
        running.cancel()
        await asyncio.wait({running}, timeout=0.05)
    await asyncio.wait({running}, timeout=60)
    assert running.cancelled()
    assert actor.killed
    assert not member.ended_well


async def test_killing_ends_where_the_cluster_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray waits for a lost head node for good."""
    monkeypatch.setattr("agentlightning.execution.ray_member._KILL_SECONDS", 0.05)
    over = threading.Event()
    actor = Actor()
    monkeypatch.setattr(actor, "die", lambda: over.wait(60))
    try:
        async with asyncio.timeout(30):
            await RayMember(actor, b"", "it", 60.0).kill()
        assert not over.is_set()
    finally:
        over.set()
    assert "it may live on: the cluster does not answer" in caplog.text
