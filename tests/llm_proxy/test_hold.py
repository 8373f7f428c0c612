"""The gate: who holds calls, for how long, and what is in flight."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from shifted_clock import Clock, until

from agentlightning.errors import CallHeld
from agentlightning.llm_proxy.hold import Gate

LONG = 1e6


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_an_open_gate_lets_calls_through() -> None:
    gate = Gate()
    assert not gate.closed
    assert await gate.opens(0.0)


async def test_calls_wait_while_any_owner_holds_them(clock: Clock) -> None:
    gate = Gate()
    gate.close("a", LONG, LONG)
    gate.close("b", LONG, LONG)
    waiting = asyncio.create_task(gate.opens(LONG))
    await until(lambda: gate.held == 1)
    assert gate.open("a")
    await clock.advance(10)
    assert gate.closed
    assert not waiting.done()
    assert gate.open("b")
    assert await waiting
    assert gate.status().owners == {}
    assert gate.held == 0


async def test_a_gate_that_closes_again_at_once_lets_nobody_through(clock: Clock) -> None:
    gate = Gate()
    gate.close("a", LONG, LONG)
    waiting = asyncio.create_task(gate.opens(LONG))
    await until(lambda: gate.held == 1)
    gate.open("a")
    gate.close("a", LONG, LONG)
    await clock.advance(10)
    assert not waiting.done()
    gate.open("a")
    assert await waiting


async def test_a_lease_without_a_sign_of_life_ends_and_says_so(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    gate.close("trainer", 30.0, LONG)
    await clock.advance(29)
    assert gate.closed
    assert 0 < gate.status().owners["trainer"] <= 1
    with caplog.at_level(logging.WARNING):
        await clock.advance(2)
    assert not gate.closed
    assert gate.lapsed == 1
    assert "'trainer' held model calls and gave no sign of life for 30 s" in caplog.text
    assert not gate.renew("trainer")
    assert not gate.open("trainer")


@pytest.mark.parametrize("how", ["renew", "close"])
async def test_a_sign_of_life_begins_the_lease_anew(clock: Clock, how: str) -> None:
    gate = Gate()
    gate.close("trainer", 30.0, LONG)
    for _ in range(5):
        await clock.advance(20)
        gate.close("trainer", 30.0, LONG) if how == "close" else gate.renew("trainer")
    assert gate.closed
    await clock.advance(31)
    assert not gate.closed
    assert gate.lapsed == 1


async def test_waiting_has_an_end(clock: Clock) -> None:
    gate = Gate()
    gate.close("a", LONG, 5.0)
    gate.close("b", LONG, 50.0)
    assert gate.patience == 50.0
    waiting = asyncio.create_task(gate.opens(gate.patience))
    await clock.advance(49)
    assert not waiting.done()
    await clock.advance(2)
    assert not await waiting
    assert gate.closed


async def test_a_gateway_that_stops_sends_away_who_waits() -> None:
    gate = Gate()
    gate.close("a", LONG, LONG)
    waiting = asyncio.create_task(gate.opens(LONG))
    await until(lambda: gate.held == 1)
    gate.shut()
    with pytest.raises(CallHeld):
        await waiting
    assert gate.held == 0


async def test_a_drain_ends_with_the_last_call_in_flight(clock: Clock) -> None:
    gate = Gate()
    gate.enter()
    gate.enter()
    draining = asyncio.create_task(gate.drain(100.0))
    gate.leave()
    await clock.advance(10)
    assert not draining.done()
    gate.leave()
    assert await draining
    assert await gate.drain(0.0)


async def test_a_drain_has_a_deadline(clock: Clock) -> None:
    gate = Gate()
    gate.enter()
    draining = asyncio.create_task(gate.drain(5.0))
    await clock.advance(6)
    assert not await draining


_OWNERS = st.sampled_from("abc")
_STEPS = st.one_of(
    st.tuples(st.just("close"), _OWNERS, st.integers(1, 9)),
    st.tuples(st.just("renew"), _OWNERS, st.just(0)),
    st.tuples(st.just("open"), _OWNERS, st.just(0)),
    st.tuples(st.just("pass"), st.just(""), st.integers(1, 9)),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEPS, max_size=12))
def test_the_gate_is_closed_exactly_while_a_lease_runs(
    steps: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        gate, now, ends, leases = Gate(), 0, dict[str, int](), dict[str, int]()
        with monkeypatch.context() as patch:
            clock = Clock(patch)
            for step, owner, seconds in steps:
                if step == "close":
                    gate.close(owner, seconds - 0.5, LONG)
                    ends[owner], leases[owner] = now + seconds, seconds
                elif step == "renew":
                    assert gate.renew(owner) == (owner in ends)
                    ends.update({owner: now + leases[owner]} if owner in ends else {})
                elif step == "open":
                    assert gate.open(owner) == (owner in ends)
                    ends.pop(owner, None)
                else:
                    await clock.advance(seconds)
                    now += seconds
                    ends = {each: end for each, end in ends.items() if end > now}
                assert gate.closed == bool(ends)
                assert gate.status().owners.keys() == ends.keys()

    asyncio.run(play())
