from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.emitter import operation
from agentlightning.tracer import DummyTracer, OtelTracer, Tracer


@operation  # at import, outside of any trace
def add(a: int, /, *rest: int, scale: int = 1, **more: Any) -> dict[str, int]:
    return {"sum": (a + sum(rest)) * scale}


@operation(name="later", kind={"of": "test"})
async def later(text: str) -> str:
    return text.upper()


class Agent:
    @operation
    def act(self, how: str) -> str:
        return how


async def test_a_decorated_function_records_arguments_and_result() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        assert add(1, 2, 3, scale=2, x={"y": 1}) == {"sum": 12}
        assert await later("x") == "X"
        assert Agent().act("well") == "well"
    first, second, third = tracer.get_last_trace()
    assert first.name == "agentlightning.operation"
    assert first.attributes == {
        "agentlightning.operation.name": "add",
        "agentlightning.operation.input.a": 1,
        "agentlightning.operation.input.rest": [2, 3],
        "agentlightning.operation.input.scale": 2,
        "agentlightning.operation.input.more.x.y": 1,
        "agentlightning.operation.output.sum": 12,
    }
    assert second.attributes == {
        "agentlightning.operation.name": "later",
        "kind.of": "test",
        "agentlightning.operation.input.text": "x",
        "agentlightning.operation.output": "X",
    }
    assert [key for key in third.attributes if "input" in key] == ["agentlightning.operation.input.how"]


def test_outside_of_a_trace_a_decorated_function_just_runs() -> None:
    assert add(1) == {"sum": 1}
    assert add.__name__ == "add"


async def test_a_failure_is_recorded_and_goes_on() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        with pytest.raises(TypeError):
            add()  # type: ignore[call-arg]
    (span,) = tracer.get_last_trace()
    assert span.status.status_code == "ERROR"
    assert len(span.events) == 1


async def test_recording_never_fails_a_call() -> None:
    @operation
    def count(table: dict[int, object]) -> set[int]:
        return set(table)

    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        assert count({1: object()}) == {1}
    assert tracer.get_last_trace()[0].attributes["agentlightning.operation.output"] == '"{1}"'


@pytest.mark.parametrize("propagate", [True, False])
async def test_a_block_records_what_it_is_given(propagate: bool) -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        with operation(propagate=propagate, step=1) as block:
            block.set_input("a", b=2)
            block.set_output([1, "x"])
            with pytest.raises(RuntimeError, match="before its block is over"):
                block.span()
    assert block.span().attributes == {
        "step": 1,
        "agentlightning.operation.input.args": ["a"],
        "agentlightning.operation.input.b": 2,
        "agentlightning.operation.output.0": 1,
        "agentlightning.operation.output.1": "x",
    }
    assert len(tracer.get_last_trace()) == propagate
    with pytest.raises(RuntimeError, match="only inside its block"):
        block.set_output(1)


def test_bad_uses_are_refused() -> None:
    with pytest.raises(ValueError, match="takes a function"):
        operation(1)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="given twice"):
        operation(name="a", **{"agentlightning.operation.name": "b"})


@pytest.mark.parametrize("tracer", [OtelTracer, DummyTracer])
async def test_neither_errors_nor_arguments_without_words_get_in_the_way(tracer: Callable[[], Tracer]) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

        __repr__ = __str__

    @operation
    def fail(what: object) -> None:
        raise Unspeakable

    used = tracer()
    async with used.trace_context("test"):
        with pytest.raises(Unspeakable):
            fail(Unspeakable())
    (span,) = used.get_last_trace()
    assert span.status.description == "Unspeakable: <Unspeakable whose str() raises RuntimeError>"
