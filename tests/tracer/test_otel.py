from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from opentelemetry import trace as otel
from opentelemetry.context import Context

from agentlightning.emitter import emit_message, get_message_value
from agentlightning.errors import ConfigurationError, InvalidValue, NotFound, StoreError
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import (
    DummyTracer,
    OtelTracer,
    Tracer,
    clear_active_tracer,
    get_active_tracer,
    set_active_tracer,
)
from agentlightning.tracer.active import active_trace, outside_traces
from agentlightning.tracer.batcher import Batcher
from agentlightning.tracer.processor import connect, dropped_spans
from agentlightning.tracer.writer import PART, PART_CHARACTERS
from agentlightning.types import AttemptedRollout, Attributes, Span, TraceStatus

DEADLINE = 10.0


class SlowStore(InMemoryLightningStore):
    """Takes spans only once `open_gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open_gate = asyncio.Event()
        self.writes_waiting = asyncio.Event()

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        self.writes_waiting.set()
        await self.open_gate.wait()
        return await super().add_many_spans(spans)


class FailingStore(InMemoryLightningStore):
    """Fails at the first `failures` writes."""

    def __init__(self, failures: int, error: Exception) -> None:
        super().__init__()
        self.failures = failures
        self.error = error

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        if self.failures:
            self.failures -= 1
            raise self.error
        return await super().add_many_spans(spans)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.retry.FIRST_PAUSE", 0.001)
    monkeypatch.setattr(Tracer, "max_outage", 0.05)


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


def make(kind: type[Tracer], store: InMemoryLightningStore | None) -> Tracer:
    tracer = kind()
    tracer.init_worker(0, store)
    return tracer


def messages(spans: Sequence[Span]) -> list[str | None]:
    return [get_message_value(span) for span in spans]


async def stored(store: InMemoryLightningStore, rollout: AttemptedRollout) -> list[Span]:
    return list(await store.query_spans(rollout.rollout_id))


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
async def test_spans_are_in_the_store_when_the_trace_is_over(kind: type[Tracer], store: InMemoryLightningStore) -> None:
    tracer, rollout = make(kind, store), await store.start_rollout(input=0)
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    async with tracer.trace_context("name", **ids):
        assert get_active_tracer() is tracer
        with tracer.operation_context("parent", {"a": 1}) as parent:
            tracer.create_span("child", {"b": "x"}, timestamp=5.0, status=TraceStatus(status_code="OK"))
        assert parent.get_recorded_span().attributes == {"a": 1}
    spans = await stored(store, rollout)
    assert [span.name for span in spans] == ["parent", "child"]  # the parent started first
    assert [span.sequence_id for span in spans] == [1, 2]
    assert spans[1].start_time == spans[1].end_time == 5.0
    assert [span.span_id for span in tracer.get_last_trace()] == [span.span_id for span in spans]
    assert {(span.rollout_id, span.attempt_id) for span in spans} == {tuple(ids.values())}
    assert get_active_tracer() is None


async def test_children_nest_and_library_spans_are_captured(store: InMemoryLightningStore) -> None:
    tracer = make(OtelTracer, store)
    async with tracer.trace_context("local"):
        with tracer.operation_context("parent"), otel.get_tracer("a library").start_as_current_span("inner"):
            pass
    parent, inner = tracer.get_last_trace()
    assert (inner.name, inner.parent_id, inner.trace_id) == ("inner", parent.span_id, parent.trace_id)


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
async def test_an_exception_is_recorded_once(kind: type[Tracer]) -> None:
    tracer = make(kind, None)

    async def fail() -> None:
        async with tracer.trace_context("local"):
            with tracer.operation_context("failing"):
                raise KeyError("x")

    with pytest.raises(KeyError):
        await fail()
    (span,) = tracer.get_last_trace()
    assert span.status.status_code == "ERROR"
    assert "KeyError" in (span.status.description or "")
    assert len(span.events) + ("exception.type" in span.attributes) == 1


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
async def test_a_hundred_concurrent_rollouts_keep_their_spans_apart(
    kind: type[Tracer], store: InMemoryLightningStore
) -> None:
    tracer = make(kind, store)
    rollouts = [await store.start_rollout(input=i) for i in range(100)]
    with ThreadPoolExecutor(2) as pool:

        async def run(rollout: AttemptedRollout) -> None:
            loop = asyncio.get_running_loop()
            text = str(rollout.input)
            async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
                emit_message(text)
                await loop.run_in_executor(pool, emit_message, text)
                thread = threading.Thread(target=emit_message, args=(text,))
                thread.start()
                await asyncio.create_task(asyncio.to_thread(thread.join))
                emit_message(text)
            assert messages(tracer.get_last_trace()) == [text] * 4

        await asyncio.gather(*map(run, rollouts))
    for rollout in rollouts:
        spans = await stored(store, rollout)
        assert messages(spans) == [str(rollout.input)] * 4
        assert [span.sequence_id for span in spans] == [1, 2, 3, 4]


async def test_several_tracers_do_not_duplicate_spans(store: InMemoryLightningStore) -> None:
    make(OtelTracer, store)
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        emit_message("once")
    assert messages(await stored(store, rollout)) == ["once"]


async def test_a_span_without_context_goes_to_the_only_open_trace_or_is_counted_as_dropped() -> None:
    tracer, library = make(OtelTracer, None), connect().tracer

    def outside() -> None:
        # A bare context, as in a thread that some extension module started.
        contextvars.Context().run(lambda: library.start_span("outside").end())

    dropped = dropped_spans().get("outside", 0)
    async with tracer.trace_context("only"):
        outside()
        assert [span.name for span in tracer.get_last_trace()] == ["outside"]
        async with tracer.trace_context("second"):
            outside()
            assert tracer.get_last_trace() == []
    outside()
    assert dropped_spans()["outside"] == dropped + 2


async def test_a_span_from_outside_of_all_traces_goes_to_none() -> None:
    tracer, library, names = make(OtelTracer, None), connect().tracer, list[str]()
    is_open, may_end = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        async with tracer.trace_context("only"):
            is_open.set()
            await may_end.wait()
            names.extend(span.name for span in tracer.get_last_trace())

    running = asyncio.create_task(run())
    await is_open.wait()
    dropped = dropped_spans().get("of an algorithm", 0)
    with outside_traces():
        library.start_span("of an algorithm").end()
        await asyncio.to_thread(lambda: library.start_span("of an algorithm").end())
        async with tracer.trace_context("its own"):
            library.start_span("in a trace").end()
        assert [span.name for span in tracer.get_last_trace()] == ["in a trace"]
    may_end.set()
    await running
    assert names == []
    assert dropped_spans()["of an algorithm"] == dropped + 2


async def test_a_span_without_context_goes_where_its_parent_is() -> None:
    tracer, library = make(OtelTracer, None), connect().tracer

    async def run(name: str) -> None:
        async with tracer.trace_context(name):
            with tracer.operation_context(name) as parent:
                await asyncio.sleep(0)  # both traces are open
                only_the_parent = otel.set_span_in_context(parent.get_otel_span(), Context())
                contextvars.Context().run(lambda: library.start_span(f"in {name}", only_the_parent).end())
        assert [span.name for span in tracer.get_last_trace()] == [name, f"in {name}"]

    await asyncio.gather(run("a"), run("b"))


def test_a_span_that_never_ends_keeps_no_trace_alive() -> None:
    tracer, opened = make(OtelTracer, None), []

    async def run() -> None:
        async with tracer.trace_context("forgetful"):
            otel.get_tracer("a library").start_span("never ended")
            trace = active_trace()
            assert trace is not None
            opened.append(weakref.ref(trace))

    asyncio.run(run())
    gc.collect()
    assert opened[0]() is None


async def test_every_span_after_the_end_of_the_loop_is_refused() -> None:
    def use_a_loop_that_ends() -> Batcher[int]:
        async def make_batcher() -> Batcher[int]:
            batcher = Batcher[int](asyncio.get_running_loop(), send, 1000.0)
            batcher.put(0)  # still waiting for company when the loop ends
            return batcher

        return asyncio.run(make_batcher())

    async def send(items: list[int]) -> None:
        raise AssertionError("nobody sends any more")

    batcher = await asyncio.to_thread(use_a_loop_that_ends)
    for item in range(3):
        with pytest.raises(RuntimeError, match="closed"):
            batcher.put(item)


async def test_ending_a_span_never_waits_for_the_store() -> None:
    store = SlowStore()
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    async with asyncio.timeout(DEADLINE):
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            emit_message("first")
            await store.writes_waiting.wait()  # the first write hangs
            emit_message("second")
            assert messages(tracer.get_last_trace()) == ["first", "second"]
            store.open_gate.set()
        assert messages(await stored(store, rollout)) == ["first", "second"]
    await store.close()


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
async def test_a_written_span_is_the_one_that_was_recorded(kind: type[Tracer]) -> None:
    store = SlowStore()
    tracer, rollout = make(kind, store), await store.start_rollout(input=0)
    attributes = {"text": "ä", "truth": True, "numbers": [1.5, float("inf")], "texts": ["a", "b"]}
    async with asyncio.timeout(DEADLINE):
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            with tracer.operation_context("parent", attributes) as operation:
                operation.record_exception(KeyError("x"))
                tracer.create_span("child", attributes)
            await store.writes_waiting.wait()
            before = tracer.get_last_trace()
            store.open_gate.set()
    assert tracer.get_last_trace() == before == await stored(store, rollout)
    assert len(before) == 2
    await store.close()


async def test_a_place_is_reserved_while_the_span_is_open(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    reserve, reserved = store.get_many_span_sequence_ids, asyncio.Event()

    async def reserve_and_tell(pairs: Sequence[tuple[str, str]]) -> Sequence[int]:
        ids = await reserve(pairs)
        reserved.set()
        return ids

    monkeypatch.setattr(store, "get_many_span_sequence_ids", reserve_and_tell)
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    async with asyncio.timeout(DEADLINE), tracer.trace_context(**ids):
        with tracer.operation_context("long"):
            await reserved.wait()
            # Somebody else, such as the gateway, counts in the same rollout while the span is open.
            assert await store.get_next_span_sequence_id(*ids.values()) == 2
    assert tracer.get_last_trace()[0].sequence_id == 1


async def test_a_failing_write_is_tried_again() -> None:
    store = FailingStore(2, StoreError("not now"))
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        emit_message("kept")
    assert messages(await stored(store, rollout)) == ["kept"]
    await store.close()


@pytest.mark.parametrize("error", [StoreError("broken"), RuntimeError("a bug")])
async def test_a_lasting_failure_surfaces_at_flush_and_the_spans_stay(error: Exception) -> None:
    store = FailingStore(1000, error)
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    with pytest.raises(type(error), match=str(error)):
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            emit_message("kept")
    assert messages(tracer.get_last_trace()) == ["kept"]
    await store.close()


async def test_a_store_that_is_away_for_a_while_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tracer, "max_outage", DEADLINE)
    monkeypatch.setattr("agentlightning.store.retry.LONGEST_PAUSE", 0.001)
    store = FailingStore(50, OSError("away"))
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        emit_message("kept")
    assert messages(await stored(store, rollout)) == ["kept"]
    await store.close()


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
async def test_a_span_that_ends_after_its_trace_is_written(kind: type[Tracer], store: InMemoryLightningStore) -> None:
    tracer, rollout = make(kind, store), await store.start_rollout(input=0)
    may_end = asyncio.Event()

    async def linger() -> None:
        with tracer.operation_context("late"):
            await may_end.wait()

    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        lingering = asyncio.create_task(linger())
        await asyncio.sleep(0)
        emit_message("in time")
    assert messages(await stored(store, rollout)) == ["in time"]
    may_end.set()
    await lingering
    await tracer.flush()
    assert [(span.sequence_id, span.name) for span in await stored(store, rollout)] == [
        (1, "late"),
        (2, "agentlightning.message"),
    ]


async def test_what_cannot_be_written_is_said_also_when_nobody_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    store = FailingStore(1000, RuntimeError("broken"))
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    open_span = None
    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        open_span = otel.get_tracer("a library").start_span("late")
    open_span.end()
    async with asyncio.timeout(DEADLINE):
        while not caplog.records:  # noqa: ASYNC110  # a log has no event
            await asyncio.sleep(0.001)
    assert caplog.records[0].message == f"Could not write spans of {rollout.rollout_id}: RuntimeError: broken"
    await store.close()


async def test_spans_go_to_the_store_in_parts_that_hold_nobody_up(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[list[Span]] = []
    turns: list[int] = []
    turn = 0
    write = store.add_many_spans

    async def write_and_tell(spans: Sequence[Span]) -> Sequence[Span]:
        parts.append(list(spans))
        turns.append(turn)
        return await write(spans)

    async def take_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(store, "add_many_spans", write_and_tell)
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        for number in range(1200):
            emit_message("x" * PART_CHARACTERS if number % 100 == 7 else "short")
        agent = asyncio.create_task(take_turns())
    agent.cancel()
    assert len(set(turns)) == len(turns)
    assert len(await stored(store, rollout)) == 1200
    assert sorted(span.sequence_id for part in parts for span in part) == list(range(1, 1201))
    assert all(len(part) <= PART for part in parts)
    long = [sum(len(str(text)) >= PART_CHARACTERS for text in messages(part)) for part in parts]
    assert max(long) == 1
    # Only the last span of a part is long: it filled the part.
    assert not any(len(str(text)) >= PART_CHARACTERS for part in parts for text in messages(part)[:-1])


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
def test_a_finished_trace_is_gone_without_garbage_collection(kind: type[Tracer]) -> None:
    opened: list[weakref.ref[object]] = []

    async def run(tracer: Tracer, rollout: AttemptedRollout) -> None:
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            with tracer.operation_context("operation"):
                emit_message("text")
            opened.append(weakref.ref(active_trace()))

    async def main() -> None:
        store = InMemoryLightningStore()
        await asyncio.create_task(run(make(kind, store), await store.start_rollout(input=0)))
        await store.close()

    gc.disable()
    try:
        asyncio.run(main())
        assert opened[0]() is None
    finally:
        gc.enable()


def test_spans_of_somebody_else_s_provider_are_captured_and_what_its_limits_cut_is_told() -> None:
    program = """if True:
        import asyncio, logging
        from opentelemetry import trace
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from agentlightning.tracer import OtelTracer

        logging.basicConfig(format="%(message)s")
        trace.set_tracer_provider(TracerProvider(span_limits=SpanLimits(max_span_attributes=2)))

        async def main():
            tracer = OtelTracer(instrument=None)
            many = {f"key {i}": i for i in range(10)}
            async with tracer.trace_context("local"):
                with trace.get_tracer("theirs").start_as_current_span("theirs", attributes=many):
                    tracer.create_span("ours", many)
            theirs, ours = tracer.get_last_trace()
            print(len(theirs.attributes), theirs.dropped_attributes_count, len(ours.attributes))
            print(ours.parent_id == theirs.span_id)

        asyncio.run(main())
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "2 8 10\nTrue\n"
    assert "'theirs' lost 8 attributes to a limit of this program's OpenTelemetry provider" in ended.stderr


async def test_one_refused_trace_fails_no_other(store: InMemoryLightningStore) -> None:
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)

    async def run(rollout_id: str, attempt_id: str) -> None:
        async with tracer.trace_context(rollout_id=rollout_id, attempt_id=attempt_id):
            emit_message("text")

    known, unknown = await asyncio.gather(
        run(rollout.rollout_id, rollout.attempt.attempt_id), run("ro-nowhere", "at-nowhere"), return_exceptions=True
    )
    assert known is None
    assert isinstance(unknown, NotFound)
    assert messages(await stored(store, rollout)) == ["text"]


def test_a_dummy_tracer_alone_follows_its_traces_into_threads() -> None:
    program = """if True:
        import asyncio, threading
        from concurrent.futures import ThreadPoolExecutor
        from agentlightning.emitter import emit_message
        from agentlightning.tracer import DummyTracer

        async def main():
            tracer = DummyTracer()
            async with tracer.trace_context("local"):
                thread = threading.Thread(target=emit_message, args=("thread",))
                thread.start()
                thread.join()
                with ThreadPoolExecutor() as pool:
                    pool.submit(emit_message, "pool").result()
            print(len(tracer.get_last_trace()))

        asyncio.run(main())
    """
    # In a process of its own: elsewhere an OtelTracer may have been there before.
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("2\n", "")


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
async def test_text_that_utf8_cannot_hold_is_kept_in_escapes(kind: type[Tracer], store: InMemoryLightningStore) -> None:
    tracer, rollout = make(kind, store), await store.start_rollout(input=0)
    bad, kept = "model said \udc80", r"model said \udc80"
    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        emit_message(bad, attributes={bad: [bad, "x"], "number": 1})
    (span,) = await stored(store, rollout)
    assert get_message_value(span) == kept
    assert (span.attributes[kept], span.attributes["number"]) == ([kept, "x"], 1)


async def test_a_library_may_say_what_utf8_cannot_hold(store: InMemoryLightningStore) -> None:
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    bad, kept = "\udc80", r"\udc80"
    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        with otel.get_tracer("a library").start_as_current_span(bad) as span:
            span.set_attributes({bad: bad, "list": [bad]})
            span.add_event(bad, {"text": bad})
            span.set_status(otel.StatusCode.ERROR, bad)
    (found,) = await stored(store, rollout)
    assert (found.name, found.attributes, found.status.description) == (kept, {kept: kept, "list": [kept]}, kept)
    assert (found.events[0].name, found.events[0].attributes) == (kept, {"text": kept})


async def test_one_refused_span_takes_no_other_with_it(store: InMemoryLightningStore) -> None:
    tracer, rollout = make(DummyTracer, store), await store.start_rollout(input=0)

    async def run() -> None:
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            for number in range(5):
                emit_message(str(number))
                tracer.create_span("odd" if number % 2 else "refused \udc80")

    with pytest.raises(InvalidValue, match="surrogates"):
        await run()
    written = [get_message_value(span) or span.name for span in await stored(store, rollout)]
    assert written == ["0", "1", "odd", "2", "3", "odd", "4"]


async def test_one_span_that_cannot_be_built_takes_no_other_with_it(store: InMemoryLightningStore) -> None:
    tracer = make(DummyTracer, store)
    rollouts = [await store.start_rollout(input=number) for number in range(2)]

    def unbuildable(**identity: object) -> Span:
        raise LookupError("no name")

    async def run(rollout: AttemptedRollout, breaks: bool) -> list[str | None]:
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            emit_message("before")
            trace = active_trace()
            if breaks and trace is not None:
                trace.add(unbuildable)
            emit_message("after")
            return messages(tracer.get_last_trace())

    async with asyncio.timeout(DEADLINE):
        first, second = await asyncio.gather(run(rollouts[0], True), run(rollouts[1], False), return_exceptions=True)
        await run(rollouts[1], False)  # the writer goes on
    assert isinstance(first, InvalidValue)
    assert "LookupError: no name" in str(first)
    assert second == ["before", "after"]
    assert messages(await stored(store, rollouts[0])) == ["before", "after"]
    assert messages(await stored(store, rollouts[1])) == ["before", "after"] * 2


async def test_a_library_may_name_and_time_spans_oddly(store: InMemoryLightningStore) -> None:
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    odd: Any = None
    async with asyncio.timeout(DEADLINE):
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            library = otel.get_tracer("a library")
            span = library.start_span(odd)
            span.add_event(odd)
            odd = "later"
            span.end(end_time=odd)
            odd = 5
            with library.start_as_current_span("text") as renamed:
                renamed.update_name(odd)
    unnamed, numbered = await stored(store, rollout)
    assert (unnamed.name, unnamed.events[0].name, unnamed.end_time, numbered.name) == ("None", "None", None, "5")


async def test_a_batch_whose_sending_raises_is_lost_and_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[int] = []

    async def send(items: list[int]) -> None:
        if 0 in items:
            raise RuntimeError("a bug")
        sent.extend(items)

    batcher = Batcher[int](asyncio.get_running_loop(), send, 0.0)
    async with asyncio.timeout(DEADLINE):
        batcher.put(0)
        await batcher.flush()
        batcher.put(1)
        await batcher.flush()
    assert sent == [1]
    assert "1 items were not sent" in caplog.text


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("waits", [True, False])
async def test_a_cancelled_batcher_goes_on(waits: bool, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be its task cancelled before its first step or later, and somebody waiting for it or not."""
    monkeypatch.setattr("agentlightning.tracer.batcher.RESUME_DELAY", 0.0)
    sent: list[int] = []
    all_sent = asyncio.Event()

    async def send(items: list[int]) -> None:
        await asyncio.sleep(0)
        sent.extend(items)
        all_sent.set()

    batcher = Batcher[int](asyncio.get_running_loop(), send, 0.0)
    others = asyncio.all_tasks()
    batcher.put(1)
    (task,) = asyncio.all_tasks() - others
    waiting = asyncio.ensure_future(batcher.flush() if waits else all_sent.wait())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(DEADLINE):
        await waiting
    assert sent == [1]


async def test_a_store_that_never_answers_holds_a_flush_up_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is queued, each batch of which has that time."""
    monkeypatch.setattr("agentlightning.tracer.writer.CALL_TIMEOUT", 0.01)
    monkeypatch.setattr("agentlightning.tracer.batcher.MAX_BATCH", 1)
    store = SlowStore()
    tracer, rollout = make(DummyTracer, store), await store.start_rollout(input=0)
    tracer.max_outage = 0.02
    texts = [str(number) for number in range(20)]

    async def run() -> None:
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            for text in texts:
                emit_message(text)

    async with asyncio.timeout(DEADLINE):
        with pytest.raises(StoreError, match=r"did not take the spans within 0\.03 s"):
            await run()
    assert messages(tracer.get_last_trace()) == texts
    await store.close()


def test_a_flush_that_ends_with_its_loop_leaves_no_task_behind() -> None:
    async def write(store: SlowStore) -> None:
        tracer, rollout = make(DummyTracer, store), await store.start_rollout(input=0)
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            emit_message("never written")

    async def run() -> asyncio.Task[None]:
        store = SlowStore()
        writing = asyncio.create_task(write(store))
        async with asyncio.timeout(DEADLINE):
            await store.writes_waiting.wait()
        await store.close()
        return writing

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        writing = runner.run(run())
    assert writing.cancelled()
    assert not asyncio.all_tasks(loop)


async def test_a_rollout_whose_spans_time_out_fails_no_other(store: InMemoryLightningStore) -> None:
    slow, quick = [await store.start_rollout(input=number) for number in range(2)]
    tracer, write = make(DummyTracer, store), store.add_many_spans

    async def time_out_for_slow(spans: Sequence[Span]) -> Sequence[Span]:
        if any(span.rollout_id == slow.rollout_id for span in spans):
            raise TimeoutError("too large to be written in time")
        return await write(spans)

    store.add_many_spans = time_out_for_slow

    async def run(rollout: AttemptedRollout) -> None:
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            emit_message("text")

    failed, written = await asyncio.gather(run(slow), run(quick), return_exceptions=True)
    assert isinstance(failed, TimeoutError)
    assert written is None
    assert messages(await stored(store, quick)) == ["text"]


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
async def test_attributes_of_any_kind_are_kept_as_text(kind: type[Tracer]) -> None:
    tracer, odd, kept = kind(), cast("Attributes", {"odd": {"a": [1, "b"]}}), '{"a": [1, "b"]}'
    async with tracer.trace_context():
        assert tracer.create_span("at once", odd).attributes == {"odd": kept}
        with tracer.operation_context("operation", odd) as operation:
            operation.record_attributes(cast("Attributes", {"later": {1}}))
    (at_once, operated) = tracer.get_last_trace()
    assert at_once.attributes == {"odd": kept}
    assert operated.attributes == {"odd": kept, "later": '"{1}"'}


async def test_the_failure_of_the_body_wins_over_that_of_the_store() -> None:
    store = FailingStore(1000, StoreError("broken"))
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)

    async def fail() -> None:
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            emit_message("text")
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    await store.close()


async def test_three_hundred_attributes_survive(store: InMemoryLightningStore) -> None:
    tracer, rollout = make(OtelTracer, store), await store.start_rollout(input=0)
    attributes = {f"gen_ai.prompt.{i}.content": f"text {i}" for i in range(300)}
    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        with otel.get_tracer("a library").start_as_current_span("openai.chat.completion") as span:
            span.set_attributes(attributes)
    assert (await stored(store, rollout))[0].attributes == attributes


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
async def test_ids_come_together_and_need_a_store(kind: type[Tracer], store: InMemoryLightningStore) -> None:
    with pytest.raises(ConfigurationError, match="both"):
        async with make(kind, store).trace_context(rollout_id="ro-1"):
            pass
    with pytest.raises(ConfigurationError, match="needs a store"):
        async with make(kind, None).trace_context(rollout_id="ro-1", attempt_id="at-1"):
            pass


async def test_the_last_trace_is_that_of_the_calling_task() -> None:
    tracer = make(OtelTracer, None)

    async def run(text: str) -> list[str | None]:
        async with tracer.trace_context(text):
            emit_message(text)
            await asyncio.sleep(0)
        return messages(tracer.get_last_trace())

    assert await asyncio.gather(run("a"), run("b")) == [["a"], ["b"]]
    assert tracer.get_last_trace() == []
    snapshot = tracer.get_last_trace()
    async with tracer.trace_context("c"):
        emit_message("c")
    assert snapshot == []


@pytest.mark.parametrize("kind", [OtelTracer, DummyTracer])
async def test_a_function_runs_in_a_trace_of_its_own(kind: type[Tracer]) -> None:
    tracer = kind()

    def say(text: str, *, mark: str) -> str:
        emit_message(text + mark)
        return text

    async def say_later(text: str) -> str:
        await asyncio.sleep(0)
        return say(text, mark="?")

    assert tracer.trace_run(say, "now", mark="!") == "now"
    assert messages(tracer.get_last_trace()) == ["now!"]
    assert await tracer.trace_run_async(say_later, "later") == "later"
    assert messages(tracer.get_last_trace()) == ["later?"]
    with pytest.raises(ZeroDivisionError):
        tracer.trace_run(divmod, 1, 0)
    assert get_active_tracer() is None


async def test_the_active_tracer_is_set_and_cleared() -> None:
    tracer = DummyTracer()
    set_active_tracer(tracer)
    assert get_active_tracer() is tracer
    with pytest.raises(ConfigurationError, match="active already"):
        set_active_tracer(tracer)
    clear_active_tracer()
    assert get_active_tracer() is None


def test_a_lifespan_sets_up_and_tears_down() -> None:
    tracer = OtelTracer()
    with tracer.lifespan() as inside:
        assert inside is tracer
        assert tracer.worker_id == 0
    assert tracer.worker_id is None
