from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator

import pytest

from agentlightning.emitter import emit_message, operation
from agentlightning.emitter.capture import LIMIT
from agentlightning.tracer import OtelTracer
from agentlightning.types import Span

OUTPUT = "agentlightning.operation.output"


@operation
def count(to: int) -> Generator[int, str | None, str]:
    for number in range(to):
        emit_message(f"inside {number}")
        yield number
    return "done"


@operation
async def count_later(to: int) -> AsyncGenerator[int, None]:
    for number in range(to):
        await asyncio.sleep(0)
        emit_message(f"inside {number}")
        yield number


def split(spans: list[Span]) -> tuple[Span, list[Span], list[Span]]:
    """The operation, what was recorded below it, and the rest."""
    (block,) = [span for span in spans if span.name == "agentlightning.operation"]
    others = [span for span in spans if span is not block]
    below = [span for span in others if span.parent_id == block.span_id]
    return block, below, [span for span in others if span not in below]


async def test_the_span_of_a_generator_covers_its_iteration_and_nothing_of_its_consumer() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        for number in count(2):
            emit_message(f"outside {number}")
    block, below, others = split(tracer.get_last_trace())
    assert block.attributes[f"{OUTPUT}.1"] == 1
    assert block.attributes["agentlightning.operation.input.to"] == 2
    assert [span.attributes["agentlightning.message.body"] for span in below] == ["inside 0", "inside 1"]
    assert [span.attributes["agentlightning.message.body"] for span in others] == ["outside 0", "outside 1"]
    assert (block.end_time_ns or 0) >= (others[-1].end_time_ns or 0)


async def test_the_span_of_an_async_generator_covers_its_iteration_and_nothing_of_its_consumer() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        async for number in count_later(2):
            emit_message(f"outside {number}")
    block, below, others = split(tracer.get_last_trace())
    assert [block.attributes[f"{OUTPUT}.{index}"] for index in range(2)] == [0, 1]
    assert [span.attributes["agentlightning.message.body"] for span in below] == ["inside 0", "inside 1"]
    assert [span.attributes["agentlightning.message.body"] for span in others] == ["outside 0", "outside 1"]


def test_a_generator_keeps_its_protocol() -> None:
    @operation
    def echo() -> Generator[str, str, str]:
        heard = ""
        while True:
            try:
                heard = yield heard
            except KeyError:
                return "over"

    generator = echo()
    assert next(generator) == ""
    assert generator.send("a") == "a"
    with pytest.raises(StopIteration) as stop:
        generator.throw(KeyError())
    assert stop.value.value == "over"


async def test_an_async_generator_keeps_its_protocol() -> None:
    @operation
    async def echo() -> AsyncGenerator[str, str]:
        heard = ""
        while True:
            try:
                heard = yield heard
            except KeyError:
                return

    generator = echo()
    assert await anext(generator) == ""
    assert await generator.asend("a") == "a"
    with pytest.raises(StopAsyncIteration):
        await generator.athrow(KeyError())


async def test_a_generator_that_is_left_early_ends_well() -> None:
    closed: list[str] = []

    @operation
    def forever() -> Generator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append("plain")

    @operation
    async def forever_later() -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append("async")

    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        with contextlib.closing(forever()) as numbers:
            assert next(numbers) == 1
        async with contextlib.aclosing(forever_later()) as later:
            assert await anext(later) == 1
    assert closed == ["plain", "async"]
    assert [span.status.status_code for span in tracer.get_last_trace()] == ["UNSET", "UNSET"]


async def test_an_error_inside_is_the_spans_and_goes_on() -> None:
    @operation
    def fail() -> Generator[int]:
        yield 1
        raise KeyError("x")

    @operation
    async def fail_later() -> AsyncGenerator[int, None]:
        yield 1
        raise KeyError("x")

    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        with pytest.raises(KeyError):
            list(fail())
        with pytest.raises(KeyError):
            [item async for item in fail_later()]
    assert [span.status.status_code for span in tracer.get_last_trace()] == ["ERROR", "ERROR"]


async def test_arguments_that_do_not_fit_are_recorded_with_the_error() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        with pytest.raises(TypeError):
            next(count(why=1))  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            await anext(count_later(why=1))  # type: ignore[call-arg]
    for span in tracer.get_last_trace():
        assert span.status.status_code == "ERROR"
        assert span.attributes["agentlightning.operation.input.kwargs.why"] == 1


async def test_a_generator_that_fails_while_it_is_closed_says_so() -> None:
    @operation
    def stubborn() -> Generator[int]:
        try:
            yield 1
        finally:
            raise KeyError("closing")

    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        numbers = stubborn()
        next(numbers)
        with pytest.raises(KeyError):
            numbers.close()
    assert [span.status.status_code for span in tracer.get_last_trace()] == ["ERROR"]


async def test_a_cancelled_consumer_cancels_what_the_generator_awaits() -> None:
    reached, cancelled = asyncio.Event(), asyncio.Event()

    @operation
    async def wait() -> AsyncGenerator[int, None]:
        try:
            reached.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        yield 1

    async def consume() -> None:
        async for _ in wait():
            raise AssertionError("nothing is yielded")

    task = asyncio.create_task(consume())
    await asyncio.wait_for(reached.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert cancelled.is_set()


async def test_items_share_one_limit() -> None:
    @operation
    def texts() -> Generator[str]:
        for _ in range(100):
            yield "x" * 10_000

    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        assert sum(map(len, texts())) == 1_000_000
    (span,) = tracer.get_last_trace()
    kept = {key: str(value) for key, value in span.attributes.items() if key.startswith(OUTPUT)}
    assert LIMIT * 0.9 <= sum(map(len, kept.values())) <= LIMIT * 1.1
    assert kept[f"{OUTPUT}.7"] == "… [93 values cut]"
