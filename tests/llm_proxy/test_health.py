"""A backend is left out after failures in a row, asked less and less often, and comes back on trial."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.health import Health, Prober


def backend(**health: int) -> Backend:
    return Backend("m", "http://gpu/v1", None, health=Health(**health))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0)


class Probes:
    """A prober whose sleeps pass at once and whose backends answer as scripted, in turn; afterwards never."""

    def __init__(self, *answers: bool, served: bool = True) -> None:
        self.answers = list(answers)
        self.slept: list[float] = []
        self.silence = asyncio.Event()
        self.prober = Prober(self._ask, lambda _: served, self._sleep, lambda: 1.0)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def _ask(self, _: Backend) -> bool:
        if not self.answers:
            await self.silence.wait()
        return self.answers.pop(0)


def test_three_failures_in_a_row_and_no_fewer_leave_a_backend_out() -> None:
    health = Health()
    assert [health.fail(), health.fail()] == [False, False]
    health.succeed()
    assert [health.fail(), health.fail(), health.out] == [False, False, False]
    assert [health.fail(), health.out] == [True, True]
    assert not health.fail(), "it is left out already"


def test_one_call_without_any_answer_in_time_is_enough() -> None:
    health = Health()
    assert health.fail(silent=True)
    assert health.out


def test_a_success_makes_up_for_all() -> None:
    health = Health()
    health.fail(silent=True)
    health.succeed()
    assert (health.failures, health.out, health.outages) == (0, False, 0)


def test_one_failure_ends_a_trial_and_one_success_makes_it_good() -> None:
    for succeeds in (False, True):
        health = Health()
        health.fail(silent=True)
        health.give_trial()
        assert not health.out
        if succeeds:
            health.succeed()
        assert health.fail() is not succeeds


async def test_a_backend_that_answers_gets_its_trial() -> None:
    probes, one = Probes(True), backend()
    one.health.fail(silent=True)
    probes.prober.watch(one)
    await until(lambda: not one.health.out)
    assert probes.slept == [1.0]
    await probes.prober.close()


async def test_a_backend_that_stays_away_is_asked_less_and_less_often() -> None:
    probes, one = Probes(*[False] * 8), backend()
    one.health.fail(silent=True)
    probes.prober.watch(one)
    await until(lambda: len(probes.slept) == 9)
    assert probes.slept == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    assert one.health.out
    await probes.prober.close()


async def test_a_backend_that_only_fails_at_calls_waits_longer_before_each_trial() -> None:
    probes, one = Probes(*[True] * 4), backend()
    one.health.fail(silent=True)
    for _ in range(4):
        probes.prober.watch(one)
        await until(lambda: not one.health.out)
        assert one.health.fail()
    assert probes.slept == [1.0, 2.0, 4.0, 8.0]
    await probes.prober.close()


async def test_a_late_success_ends_the_asking() -> None:
    probes, one = Probes(False), backend()
    one.health.fail(silent=True)
    one.health.succeed()
    probes.prober.watch(one)
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert probes.slept == []


async def test_nobody_asks_a_backend_that_is_not_served_any_more() -> None:
    probes, one = Probes(True, served=False), backend()
    one.health.fail(silent=True)
    probes.prober.watch(one)
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert probes.answers == [True]


async def test_closing_ends_all_asking_and_forgets_the_ill_health() -> None:
    probes, ill = Probes(), [backend(), backend()]
    for one in ill:
        one.health.fail(silent=True)
        probes.prober.watch(one)
    await until(lambda: len(probes.slept) == 2)
    await probes.prober.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [one.health.out for one in ill] == [False, False]


async def test_people_are_told_once_that_a_backend_is_left_out_and_once_that_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    probes, one = Probes(False, False, True), backend()
    one.health.fail(silent=True)
    probes.prober.watch(one)
    await until(lambda: not one.health.out)
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert [record.message for record in caplog.records] == [
        "http://gpu/v1 does not answer: calls go elsewhere, if they can",
        "http://gpu/v1 answers again",
    ]
