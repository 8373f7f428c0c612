"""Runners that call themselves alike take nothing from each other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlightning.litagent import rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.runner.namesakes import Namesakes
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import DummyTracer
from agentlightning.types import LeaseRenewal

DEADLINE = 20.0


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


def test_a_name_that_nobody_signs_is_free() -> None:
    namesakes = Namesakes("w", 10.0)
    assert namesakes.are_gone()
    for former in (None, {"host": "v0.3"}, namesakes.sign({})):
        namesakes.heard(former)
        assert namesakes.are_gone()


def test_one_that_signed_before_counts_until_it_has_missed_its_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("agentlightning.runner.namesakes.time.monotonic", lambda: now)
    namesakes, former = Namesakes("w", 1.0), Namesakes("w", 5.0)
    namesakes.heard(former.sign({}))
    for seconds in (0.0, 14.0):
        now += seconds
        assert not namesakes.are_gone()
        namesakes.heard(namesakes.sign({}))
    now += 1.0
    assert namesakes.are_gone()


def test_one_that_signs_after_us_lives_and_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    namesakes, other = Namesakes("w", 1.0), Namesakes("w", 1.0)
    signed = other.sign({"host": "elsewhere"})
    namesakes.heard(signed)
    assert not namesakes.are_gone()
    assert caplog.text == ""
    for _ in range(3):
        namesakes.heard(signed)
        assert not namesakes.are_gone()
    assert caplog.text.count("Another runner, on elsewhere, also calls itself w") == 1


class Signed(InMemoryLightningStore):
    """Tells of who has signed heartbeats; once two did, they take turns, which is to beat exactly in step."""

    def __init__(self) -> None:
        super().__init__()
        self.signed = Counter[str]()
        self.changed = asyncio.Condition()
        self.turn = ""

    async def renew_leases(self, *args: Any, heartbeat_stats: dict[str, Any], **options: Any) -> LeaseRenewal:
        runner = heartbeat_stats["runner"]
        async with self.changed:
            await self.changed.wait_for(lambda: self.turn != runner or len(self.signed) < 2)
        renewal = await super().renew_leases(*args, heartbeat_stats=heartbeat_stats, **options)
        async with self.changed:
            self.turn = runner
            self.signed[runner] += 1
            self.changed.notify_all()
        return renewal

    async def both_signed(self, times: int) -> None:
        async with self.changed, asyncio.timeout(DEADLINE):
            await self.changed.wait_for(lambda: len(self.signed) == 2 and min(self.signed.values()) >= times)


async def test_two_runners_of_one_name_keep_what_they_hold() -> None:
    store = Signed()

    async def agent(task: str) -> float:
        await store.both_signed(40)
        return 1.0

    async def enqueue() -> None:
        await store.both_signed(20)
        for task in ("a", "b"):
            await store.enqueue_rollout(task)

    one, other = (
        LitAgentRunner[Any](DummyTracer(), max_rollouts=1, heartbeat_interval=0.01, interval_jitter=0.0)
        for _ in range(2)
    )
    with one.run_context(agent=rollout(agent), store=store), other.run_context(agent=rollout(agent), store=store):
        await asyncio.gather(one.iter(), other.iter(), enqueue())
    for completed in await store.query_rollouts():
        assert [attempt.status for attempt in await store.query_attempts(completed.rollout_id)] == ["succeeded"]
    await store.close()


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [(None, None, "Worker-0"), (None, "gpu-7", "gpu-7-0"), ("mine", "gpu-7", "mine-0")],
)
async def test_the_name_of_a_runner(
    store: InMemoryLightningStore,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    environment: str | None,
    expected: str,
) -> None:
    monkeypatch.delenv("AGL_WORKER_NAME", raising=False)
    if environment:
        monkeypatch.setenv("AGL_WORKER_NAME", environment)

    async def agent(task: str) -> float:
        return 1.0

    runner = LitAgentRunner[Any](DummyTracer(), worker_name=given)
    with runner.run_context(agent=rollout(agent), store=store):
        await runner.step("task")
        assert runner.get_worker_id() == expected
    (worker,) = await store.query_workers()
    assert worker.worker_id == expected
