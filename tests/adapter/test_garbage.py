"""Garbage waits for the end of a conversion, and for nothing longer."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from agentlightning.adapter import LlmProxyTraceToTriplet, TracerTraceToTriplet, TraceToMessages, TraceToTrajectories
from agentlightning.adapter.garbage import collected_afterwards
from tests.adapter.spans import make_call


@pytest.fixture(autouse=True)
def collector_as_it_was() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


def test_the_outermost_conversion_turns_it_on_again() -> None:
    gc.enable()
    with collected_afterwards():
        with collected_afterwards():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_conversion_that_fails_turns_it_on_again() -> None:
    gc.enable()
    with pytest.raises(LookupError), collected_afterwards():
        raise LookupError
    assert gc.isenabled()


def test_a_program_without_it_stays_without() -> None:
    gc.disable()
    with collected_afterwards():
        pass
    assert not gc.isenabled()


@pytest.mark.parametrize(
    "adapter",
    [TracerTraceToTriplet(), LlmProxyTraceToTriplet(), TraceToMessages(), TraceToTrajectories()],
)
def test_no_adapter_leaves_it_off(adapter: TraceToMessages) -> None:
    gc.enable()
    assert adapter([make_call("call", 1)])
    assert gc.isenabled()
