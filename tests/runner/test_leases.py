"""A runner's heartbeats release what the runner never heard of, and nothing that it holds or is about to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from agentlightning.errors import RolloutCancelled, StoreError
from agentlightning.litagent import rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.runner.claims import Claims
from agentlightning.runner.leases import Lease, Leases
from agentlightning.runner.stop import LOST
from agentlightning.store import InMemoryLightningStore
from agentlightning.store.base import UNSET
from agentlightning.tracer import DummyTracer
from agentlightning.types import Attempt, AttemptedRollout, LeaseRenewal

DEADLINE = 10.0
BEAT = 0.01


def attempted(number: int) -> AttemptedRollout:
    attempt = Attempt(rollout_id=f"ro-{number}", attempt_id=f"at-{number}", sequence_id=1, start_time=0.0)
    return AttemptedRollout(rollout_id=f"ro-{number}", input=number, start_time=0.0, attempt=attempt)


def answer(time: float, *lost: tuple[str, str]) -> LeaseRenewal:
    return LeaseRenewal(time=time, lost=list(lost))


# -- what a heartbeat lists --------------------------------------------------------------------------------------------


async def test_what_is_held_is_listed_and_the_last_answer_but_one_limits_what_is_released() -> None:
    leases = Leases()
    assert leases.list() == ([], None)
    first, second = leases.hold(attempted(1)), leases.hold(attempted(2))
    leases.renewed(answer(5.0))
    assert leases.list() == ([first.key, second.key], None)
    leases.renewed(answer(6.0))
    assert leases.list() == ([("ro-1", "at-1"), ("ro-2", "at-2")], 5.0)
    leases.drop(first)
    leases.drop(first)
    assert leases.list() == ([second.key], 5.0)


async def test_the_oldest_claim_on_its_way_limits_what_is_released() -> None:
    leases = Leases()
    leases.renewed(answer(5.0))
    leases.renewed(answer(6.0))
    older, younger = ExitStack(), ExitStack()
    older.enter_context(leases.claiming())
    leases.renewed(answer(7.0))
    younger.enter_context(leases.claiming())
    leases.renewed(answer(8.0))
    assert leases.list() == ([], 5.0)
    older.close()
    assert leases.list() == ([], 6.0)
    younger.close()
    assert leases.list() == ([], 7.0)


async def test_before_the_second_answer_a_claim_on_its_way_lets_nothing_be_released() -> None:
    leases = Leases()
    leases.renewed(answer(5.0))
    with leases.claiming():
        for time in (6.0, 7.0):
            leases.renewed(answer(time))
        assert leases.list() == ([], None)


@pytest.mark.parametrize("from_thread", [False, True])
async def test_a_lost_attempt_is_told_and_no_other(from_thread: bool) -> None:
    leases = Leases()
    lost, kept = leases.hold(attempted(1)), leases.hold(attempted(2))
    renewal = answer(5.0, lost.key, ("ro-3", "ended meanwhile"))
    if from_thread:
        await asyncio.to_thread(leases.renewed, renewal)
    else:
        leases.renewed(renewal)
    with pytest.raises(RolloutCancelled, match="ended in the store"), lost.stop.cancels():
        await asyncio.sleep(DEADLINE)
    assert (lost.stop.reason, kept.stop.reason) == (LOST, None)


@dataclass(eq=False)
class Made:
    """A claim in the model: when the store made it, and whether the runner may yet hear or has heard of it."""

    number: int
    way: ExitStack
    time: int | None = None
    lease: Lease | None = None
    on_its_way: bool = True
    live: bool = True


@dataclass(eq=False)
class Listed:
    """A heartbeat in the model."""

    held: list[tuple[str, str]]
    as_of: float | None
    answers: list[LeaseRenewal] = field(default_factory=list[LeaseRenewal])


class Heartbeats(RuleBasedStateMachine):
    """Claims and heartbeats that pass each other on their ways in every possible manner."""

    claims = Bundle("claims")
    lists = Bundle("lists")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.leases = Leases()
        self.clock = 0
        self.all: list[Made] = []

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    @rule(target=claims)
    def begin(self) -> Made:
        claim = Made(len(self.all), ExitStack())
        claim.way.enter_context(self.leases.claiming())
        self.all.append(claim)
        return claim

    @rule(claim=claims)
    def make(self, claim: Made) -> None:
        if claim.time is None:
            claim.time = self.tick()

    @rule(claim=consumes(claims))
    def hear_of_it(self, claim: Made) -> None:
        self.make(claim)

        async def hold() -> Lease:
            return self.leases.hold(attempted(claim.number))

        claim.lease = self.loop.run(hold())
        self.leave(claim)

    @rule(claim=consumes(claims))
    def leave(self, claim: Made) -> None:
        """The way ends; a claim that was made and is not held is an orphan."""
        claim.way.close()
        claim.on_its_way = False

    @rule()
    def end_the_oldest(self) -> None:
        for claim in self.all:
            if claim.live and claim.lease is not None:
                claim.live = False
                self.leases.drop(claim.lease)
                return

    @rule(target=lists)
    def write_a_list(self) -> Listed:
        return Listed(*self.leases.list())

    @rule(beat=lists)
    def renew(self, beat: Listed) -> None:
        for claim in self.all:
            if self.releases(beat, claim):
                assert not claim.on_its_way, "a claim on its way was released"
                assert claim.lease is None, "an attempt that is held was released"
                claim.live = False
        beat.answers.append(answer(self.tick()))

    def releases(self, beat: Listed, claim: Made) -> bool:
        before = claim.time is not None and beat.as_of is not None and claim.time < beat.as_of
        return claim.live and before and (f"ro-{claim.number}", f"at-{claim.number}") not in beat.held

    @rule(beat=lists)
    def hear_an_answer(self, beat: Listed) -> None:
        if beat.answers:
            self.leases.renewed(beat.answers.pop(0))

    def teardown(self) -> None:
        """With no claim on its way any more, three heartbeats release all orphans."""
        for claim in self.all:
            self.leave(claim)
        for _ in range(3):
            beat = self.write_a_list()
            self.renew(beat)
            self.hear_an_answer(beat)
        self.loop.close()
        assert not [claim for claim in self.all if claim.live and claim.time is not None and claim.lease is None]


Heartbeats.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestHeartbeats = Heartbeats.TestCase


# -- claims that pass heartbeats ---------------------------------------------------------------------------------------


class Store(InMemoryLightningStore):
    """Keeps back what claims are answered until some more heartbeats were answered."""

    def __init__(self) -> None:
        super().__init__()
        self._renewed = 0
        self._beat = threading.Condition()

    async def renew_leases(
        self,
        worker_id: str,
        held: Sequence[tuple[str, str]],
        *,
        as_of: float | None = None,
        heartbeat_stats: dict[str, Any] = UNSET,
    ) -> LeaseRenewal:
        renewal = await super().renew_leases(worker_id, held, as_of=as_of, heartbeat_stats=heartbeat_stats)
        with self._beat:
            self._renewed += 1
            self._beat.notify_all()
        return renewal

    async def beats(self, count: int) -> None:
        """Wait for further heartbeats."""
        enough = self._renewed + count

        def wait() -> None:
            with self._beat:
                assert self._beat.wait_for(lambda: self._renewed >= enough, DEADLINE)

        await asyncio.to_thread(wait)

    async def dequeue_many_rollouts(self, **options: Any) -> Sequence[AttemptedRollout]:
        claimed = await super().dequeue_many_rollouts(**options)
        if claimed:
            await self.beats(4)
        return claimed

    async def start_rollout(self, *args: Any, **options: Any) -> AttemptedRollout:
        started = await super().start_rollout(*args, **options)
        await self.beats(4)
        return started


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store()
    yield store
    await store.close()


def make_runner(**options: Any) -> LitAgentRunner[int]:
    return LitAgentRunner[int](
        DummyTracer(), heartbeat_interval=BEAT, interval_jitter=0.0, poll_interval=0.05, **options
    )


@pytest.mark.parametrize("mode", ["asyncio", "thread"])
async def test_a_claim_whose_answer_heartbeats_overtake_is_run_once(store: Store, mode: Any) -> None:
    ran: list[int] = []

    async def agent(task: int) -> None:
        ran.append(task)

    runner = make_runner(max_rollouts=3, heartbeat_launch_mode=mode)
    with runner.run_context(agent=rollout(agent), store=store):
        task = asyncio.create_task(runner.iter())
        await store.beats(3)  # from now on a heartbeat may release something
        for number in range(3):
            await store.enqueue_rollout(number)
        async with asyncio.timeout(DEADLINE):
            await task
    assert ran == [0, 1, 2]
    for completed in await store.query_rollouts():
        assert completed.status == "succeeded"
        assert len(await store.query_attempts(completed.rollout_id)) == 1


async def test_a_step_whose_start_heartbeats_overtake_is_run(store: Store) -> None:
    async def agent(task: int) -> float:
        await store.beats(3)
        return 1.0

    runner = make_runner()
    with runner.run_context(agent=rollout(agent), store=store):
        async with asyncio.timeout(DEADLINE):
            first, second = await asyncio.gather(runner.step(1), runner.step(2))
    assert {first.status, second.status} == {"succeeded"}


@pytest.mark.parametrize("end", ["cancel", "error"])
async def test_a_claim_that_comes_to_nothing_holds_nothing_back(
    store: Store, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.store.retry.FIRST_PAUSE", 0.001)
    leases = Leases()
    claims = Claims(store, "w", leases, DEADLINE, patience=0.05)
    for time in (1.0, 2.0):
        leases.renewed(answer(time))
    if end == "error":

        async def fail(**options: Any) -> Any:
            raise StoreError("not now")

        monkeypatch.setattr(store, "dequeue_many_rollouts", fail)
    task = asyncio.create_task(claims.take(1))
    await asyncio.sleep(0)
    leases.renewed(answer(3.0))
    assert leases.list() == ([], 1.0)
    if end == "cancel":
        task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError if end == "cancel" else StoreError)
    assert leases.list() == ([], 2.0)
