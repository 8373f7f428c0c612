from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.emitter import operation
from agentlightning.tracer import DummyTracer, OtelTracer, Tracer
from agentlightning.types import Span
from agentlightning.types.attributes import extract_links_from_attributes, make_link_attributes, query_linked_spans

TRACERS = [OtelTracer, DummyTracer]


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

    @classmethod
    @operation
    def act_for_all(cls, self: str) -> str:
        return self


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
        "agentlightning.operation.input.rest.0": 2,
        "agentlightning.operation.input.rest.1": 3,
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
        "agentlightning.operation.input.args.0": "a",
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
        operation(name="a", **{"agentlightning.operation.name": "b"})  # type: ignore[call-overload]


@pytest.mark.parametrize("tracer", TRACERS)
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


async def recorded(call: Callable[[], object], tracer: Tracer | None = None) -> list[Span]:
    tracer = tracer or OtelTracer()
    async with tracer.trace_context("test"):
        call()
    return tracer.get_last_trace()


async def test_the_instance_and_the_class_of_a_method_are_left_out() -> None:
    (span,) = await recorded(lambda: Agent.act_for_all("x"))
    assert [key for key in span.attributes if "input" in key] == ["agentlightning.operation.input.self"]


async def test_arguments_that_do_not_fit_are_recorded_as_they_were_given() -> None:
    def call() -> None:
        with pytest.raises(TypeError):
            Agent().act(1, why=2)  # type: ignore[call-arg]

    (span,) = await recorded(call)
    assert span.attributes["agentlightning.operation.input.args.1"] == 1
    assert span.attributes["agentlightning.operation.input.kwargs.why"] == 2


async def test_every_kind_of_callable_can_be_decorated() -> None:
    class Later:
        async def __call__(self, text: str) -> str:
            return text.upper()

    shout, shorter = operation(Later()), operation(functools.partial(pow, 2))
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        assert await shout("x") == "X"
        assert shorter(3) == 8
    outputs = [span.attributes["agentlightning.operation.output"] for span in tracer.get_last_trace()]
    assert outputs == ["X", 8]


async def test_a_dataclass_is_recorded_as_its_text() -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    @operation
    def move(point: Point) -> Point:
        return point

    (span,) = await recorded(lambda: move(Point(1)))
    assert "Point(x=1)" in str(span.attributes["agentlightning.operation.output"])


async def test_a_link_finds_its_operation() -> None:
    def call() -> None:
        for step in "ab":
            with operation(name=step, step=step):
                pass

    spans = await recorded(call)
    links = extract_links_from_attributes(make_link_attributes({"step": "b"}))
    assert query_linked_spans(spans, links) == [spans[1]]


def test_one_operation_is_one_block_at_a_time() -> None:
    block = operation()
    with block, pytest.raises(RuntimeError, match="open already"), block:
        pass
    assert block.span().status.status_code != "ERROR"


async def test_all_further_arguments_share_one_limit() -> None:
    @operation
    def count(*texts: str) -> int:
        return len(texts)

    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        count(*["x" * 70_000] * 20)
    (span,) = tracer.get_last_trace()
    assert sum(len(str(value)) for value in span.attributes.values()) < 80_000


def test_a_method_of_any_kind_can_be_decorated_and_a_class_cannot() -> None:
    class Kinds:
        @operation
        @staticmethod
        def static(text: str) -> str:
            return text

        @operation(name="of the class")  # type: ignore[arg-type]
        @classmethod
        def of_class(cls, text: str) -> str:
            return f"{cls.__name__} {text}"

    assert (Kinds.static("a"), Kinds().static("a"), Kinds().of_class("a")) == ("a", "a", "Kinds a")
    with pytest.raises(ValueError, match="decorate its methods"):
        operation(Kinds)
