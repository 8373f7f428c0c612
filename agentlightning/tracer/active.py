"""The active trace: whose spans are recorded here, carried by the OpenTelemetry context."""

from __future__ import annotations

import logging
import math
import pickle
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.instrumentation.threading import ThreadingInstrumentor

from agentlightning.errors import InvalidValue
from agentlightning.types import Span

if TYPE_CHECKING:
    from agentlightning.runner import Runner
    from agentlightning.tracer.base import Tracer
    from agentlightning.tracer.writer import SpanWriter

logger = logging.getLogger(__name__)

TRACE_KEY: Final = otel_context.create_key("agentlightning-trace")
_OUTSIDE: Final = object()
"""Stands for a trace where there must be none."""
PART: Final = 50
PART_CHARACTERS: Final = 250_000
"""The most spans, or about the most text, that are made ready for the store in one go, while the event loop waits."""
LAST_TRACE: Final[ContextVar[ActiveTrace | None]] = ContextVar("agentlightning-last-trace", default=None)
"""The trace that the calling task opened last; still set when it is over."""


class MakeSpan(Protocol):
    """Builds a span once its identity is known."""

    def __call__(self, *, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
        """Build the span."""
        ...


class SpanRecord:
    """A span from its start, when its place in the order is reserved, to its being written.

    Python's collector of garbage stops the event loop for as long as it takes to look at every object that is alive.
    So a record does not know its trace, which would be left for the collector, and a written span is kept as bytes.

    Attributes:
        rollout_id: Whose span it is; empty for a local trace.
        attempt_id: Likewise.
        index: Counts the spans of a trace in the order in which they started, from 1.
        sequence_id: The place in the rollout's order; None until the store has given it.
        make: Builds the span; None until it has ended, and again once it is built.
        error: Why the store did not take it.
        ended: Whether it has ended.
        held: Whether it is kept from the store until somebody writes it with more.
        asked: Whether the store was asked for its place.
        sent: Whether it was sent to the store.
    """

    __slots__ = (
        "_bytes",
        "_span",
        "asked",
        "attempt_id",
        "ended",
        "error",
        "held",
        "index",
        "make",
        "rollout_id",
        "sent",
        "sequence_id",
    )

    def __init__(self, rollout_id: str, attempt_id: str, index: int, sequence_id: int | None) -> None:
        self.rollout_id = rollout_id
        self.attempt_id = attempt_id
        self.index = index
        self.sequence_id = sequence_id
        self.make: MakeSpan | None = None
        self.error: Exception | None = None
        self.ended = self.held = self.asked = self.sent = False
        self._span: Span | None = None
        self._bytes = b""

    def span(self, sequence_id: int) -> Span:
        """Return the ended span with this sequence id.

        Raises:
            InvalidValue: It cannot be built from what was recorded.
        """
        make, span = self.make, self._span
        if make is not None:
            span = self._span = self._built(make, sequence_id)
            self.make = None
        elif span is None:
            span = cast("Span", pickle.loads(self._bytes))
        if span.sequence_id != sequence_id:
            # Somebody may have the other one, from before the store gave it its place.
            span = self._span = span.model_copy(update={"sequence_id": sequence_id})
        return span

    def _built(self, make: MakeSpan, sequence_id: int) -> Span:
        try:
            return make(rollout_id=self.rollout_id, attempt_id=self.attempt_id, sequence_id=sequence_id)
        except Exception as error:
            raise InvalidValue(f"a span cannot be built: {type(error).__name__}: {error}") from error

    @property
    def under_way(self) -> bool:
        """Whether the store has been asked for something, and has not answered."""
        is_placing = self.asked and self.sequence_id is None
        return self.error is None and (is_placing or (self.sent and not self._bytes))

    def pack(self) -> None:
        """Keep the built span as bytes: the store has it."""
        if self._span is not None:
            self._bytes = pickle.dumps(self._span)
            self._span = None


class ActiveTrace:
    """The spans of one `trace_context`.

    Args:
        tracer: Whose trace it is.
        rollout_id: Whose spans they are; None for a local trace.
        attempt_id: Likewise.
        writer: Takes the spans to the store; None keeps them here only.

    Attributes:
        runner: Who runs an agent in this trace, if anybody does.
    """

    def __init__(
        self, tracer: Tracer, rollout_id: str | None, attempt_id: str | None, writer: SpanWriter | None
    ) -> None:
        self.tracer = tracer
        self.rollout_id = rollout_id
        self.attempt_id = attempt_id
        self.runner: Runner[Any] | None = None
        self._writer = writer
        self._started = 0
        self._ended: list[SpanRecord] = []
        # Guards what is held back; never held across an await. Reentrant, as the collector of garbage may end a span.
        self._lock = threading.RLock()
        self._holds_back = False
        self._held: list[SpanRecord] = []  # in the order in which they started

    def start(self, sequence_id: int | None = None) -> SpanRecord:
        """Record that a span started, from any thread, and queue the reservation of its sequence id.

        Args:
            sequence_id: The place it has already; None reserves one.
        """
        with self._lock:
            self._started += 1
            index = self._started
            place = sequence_id if self._writer else sequence_id or index
            record = SpanRecord(self.rollout_id or "", self.attempt_id or "", index, place)
            record.held = self._holds_back
            if record.held:  # its place comes after those of all that are held, so it waits with them
                self._held.append(record)
        if self._writer and sequence_id is None and not record.held:
            self._writer.reserve(record)
        return record

    def end(self, record: SpanRecord, make: MakeSpan) -> None:
        """Record that a span ended, from any thread, and queue it for the store."""
        record.make = make
        with self._lock:
            record.ended = True
            self._ended.append(record)
            held = record.held
        if self._writer and not held:
            self._writer.write(record)

    def add(self, make: MakeSpan, sequence_id: int | None = None) -> None:
        """Record a span that has started and ended."""
        self.end(self.start(sequence_id), make)

    async def flush(self) -> None:
        """Return when the store has every span that ended before this call.

        Raises:
            StoreError: It did not take one, or did not answer in time.
        """
        if self._writer:
            self._release()
            await self._writer.flush()
            self._raise_error()

    @property
    def holds_back(self) -> bool:
        """Whether spans are kept for `last_spans`."""
        return self._holds_back

    def hold_back(self) -> None:
        """Keep spans for `last_spans`: those that are not on their way yet, and those that start from now on.

        On the event loop of the trace. Who does this as the agent ends spares a request for the places of what it did
        last, and one for the spans. While a span is open nothing is kept: its place would come before its parent's.
        """
        with self._lock:
            self._holds_back = self._writer is not None and len(self._ended) == self._started
            if self._holds_back:
                self._held = sorted((record for record in self._ended if not record.sent), key=index_of)
                for record in self._held:
                    record.held = True

    @asynccontextmanager
    async def last_spans(self) -> AsyncGenerator[list[Span]]:
        """Give the block what was held back, in order of start, to be written by it; 0 stands for a missing place.

        The store has all other spans by then. If the block fails, and for what starts meanwhile, the spans take their
        usual way; if there are too many to be written at once, or one is open, they have taken it.

        Raises:
            StoreError: The store did not take a span, or did not answer in time.
        """
        records = await self._last()
        try:
            yield [record.span(record.sequence_id or 0) for record in records]
            for record in records:
                record.held, record.sent = False, True
                record.pack()
        except GeneratorExit:  # thrown away together with its event loop
            raise
        finally:
            self._release()

    async def _last(self) -> list[SpanRecord]:
        if self._writer and any(record.under_way for record in self._ended):
            await self._writer.flush()
        self._raise_error()
        held = self._held.copy()
        if not all(record.ended for record in held) or not is_small(held):
            await self.flush()
            return []
        return held

    def _raise_error(self) -> None:
        error = next((record.error for record in self._ended if record.error), None)
        if error:
            raise error

    def _release(self) -> None:
        """Let what is held back, and what starts from now on, take its usual way."""
        with self._lock:
            self._holds_back = False
            held, self._held = self._held, []
            for record in held:
                if record.held:
                    record.held = False
                    self._queue(record)

    def _queue(self, record: SpanRecord) -> None:
        if self._writer:
            if record.sequence_id is None and not record.asked:
                self._writer.reserve(record)
            if record.ended:
                self._writer.write(record)

    def latest_first(self) -> list[SpanRecord]:
        """Return the ended spans in the reverse of `spans`' order, as they are kept."""
        return sorted(self._ended, key=lambda record: (record.sequence_id or math.inf, record.index), reverse=True)

    def spans(self) -> list[Span]:
        """Return the ended spans by (sequence id, start); what the store has not placed yet comes last.

        Those that cannot be built are left out.
        """
        ended = self._ended.copy()
        last = max((record.sequence_id or 0 for record in ended), default=0)
        spans: list[Span] = []
        for record in ended:
            with suppress(InvalidValue):
                spans.append(record.span(last + record.index if record.sequence_id is None else record.sequence_id))
        return sorted(spans, key=lambda span: (span.sequence_id, span.start_time or 0.0))


def index_of(record: SpanRecord) -> int:
    """Return when the span started, counted in spans of its trace."""
    return record.index


def is_small(records: Sequence[SpanRecord]) -> bool:
    """Whether the spans can be made ready for the store in one go, while the event loop waits."""
    if len(records) > PART:
        return False
    try:
        return sum(map(characters_of, (record.span(record.sequence_id or 0) for record in records))) < PART_CHARACTERS
    except InvalidValue:  # it stays out of the way of the others
        return False


def characters_of(span: Span) -> int:
    """Return how much text the attributes of a span hold."""
    return sum(len(value) for value in span.attributes.values() if isinstance(value, str))


def active_trace(context: Context | None = None) -> ActiveTrace | None:
    """Return the trace of a context, by default the current one."""
    trace = otel_context.get_value(TRACE_KEY, context)
    return trace if isinstance(trace, ActiveTrace) else None


@contextmanager
def outside_traces() -> Generator[None]:
    """Keep spans of the block out of all traces but those that it opens, also when just one is open elsewhere."""
    token = otel_context.attach(otel_context.set_value(TRACE_KEY, _OUTSIDE))
    try:
        yield
    finally:
        otel_context.detach(token)


def is_outside(context: Context | None = None) -> bool:
    """Whether a context, by default the current one, belongs to no trace for sure."""
    return otel_context.get_value(TRACE_KEY, context) is _OUTSIDE


def follow_into_threads() -> None:
    """Make threads and executors start in the context of their starter; once is enough for the whole process."""
    instrumentor = ThreadingInstrumentor()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument()
