"""The one OpenTelemetry span processor of the process, which gives every span to its trace."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span as SdkSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from agentlightning.errors import ConfigurationError
from agentlightning.semconv import LightningResourceAttributes
from agentlightning.tracer.active import ActiveTrace, SpanRecord, active_trace, is_outside
from agentlightning.tracer.nesting import framework_parent
from agentlightning.types import Span, SpanContext

logger = logging.getLogger(__name__)

_NO_LIMITS: Final = SpanLimits(
    max_events=SpanLimits.UNSET,
    max_links=SpanLimits.UNSET,
    max_span_attributes=SpanLimits.UNSET,
    max_event_attributes=SpanLimits.UNSET,
    max_link_attributes=SpanLimits.UNSET,
    max_attribute_length=SpanLimits.UNSET,
    max_span_attribute_length=SpanLimits.UNSET,
)

_MAX_NAMES: Final = 100
_OTHER_NAMES: Final = "(others)"


class TraceProcessor(SpanProcessor):
    """Finds the trace of each span in its context, or from the span's parent.

    A span with neither goes to the only open trace of the process, or is dropped if there is not exactly one, or if its
    context is outside of all traces, as a trainer's algorithm is.

    Attributes:
        dropped: How many spans of each name were dropped.
    """

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._open: set[ActiveTrace] = set()
        self._started: dict[int, _Started] = {}
        self._has_told_of_limit = False

    @contextmanager
    def opened(self, trace: ActiveTrace) -> Generator[None]:
        """Count the trace as open inside the block."""
        with self._lock:
            self._open.add(trace)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(trace)

    def open_traces(self) -> list[ActiveTrace]:
        """Return the traces that are open now."""
        with self._lock:
            return list(self._open)

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Reserve the span's place in its trace."""
        trace = active_trace(parent_context) or active_trace() or self._trace_of_parent(span)
        if trace is None and not is_outside():
            trace = self._only_open()
        if trace is None:
            self._drop(span.name)
            return
        key = span.get_span_context().span_id
        gone = weakref.ref(span, lambda _: self._started.pop(key, None))
        self._started[key] = _Started(trace, trace.start(), framework_parent(span, trace), gone)

    def on_end(self, span: ReadableSpan) -> None:
        """Give the span to its trace."""
        context = span.get_span_context()
        started = self._started.pop(context.span_id, None) if context else None
        if started is None:
            return
        started.trace.end(started.record, functools.partial(_make_span, span, started.parent))
        if span.dropped_attributes and not self._has_told_of_limit:
            self._has_told_of_limit = True
            logger.warning(
                "The span %r lost %d attributes to a limit of this program's OpenTelemetry provider: "
                "set OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT higher, or give the provider SpanLimits without one",
                span.name,
                span.dropped_attributes,
            )

    def _trace_of_parent(self, span: SdkSpan) -> ActiveTrace | None:
        started = self._started.get(span.parent.span_id) if span.parent else None
        return started.trace if started else None

    def _only_open(self) -> ActiveTrace | None:
        with self._lock:
            return next(iter(self._open)) if len(self._open) == 1 else None

    def _drop(self, name: str) -> None:
        with self._lock:
            counted = name if name in self.dropped or len(self.dropped) < _MAX_NAMES else _OTHER_NAMES
            self.dropped[counted] += 1
        logger.debug("Dropped the span %r outside of any trace", name)


@dataclass(frozen=True, slots=True)
class _Started:
    """A span that has not ended.

    Attributes:
        trace: Where it belongs.
        record: Its place in there.
        parent: What it is part of, where OpenTelemetry does not know.
        gone: Forgets the span should it never end.
    """

    trace: ActiveTrace
    record: SpanRecord
    parent: otel.SpanContext | None
    gone: weakref.ref[SdkSpan]


def _make_span(
    span: ReadableSpan,
    parent: otel.SpanContext | None,
    *,
    rollout_id: str,
    attempt_id: str,
    sequence_id: int,
) -> Span:
    made = Span.from_opentelemetry(span, rollout_id, attempt_id, sequence_id)
    if parent is not None:
        made.parent_id = otel.format_span_id(parent.span_id)
        made.parent = SpanContext(
            trace_id=otel.format_trace_id(parent.trace_id), span_id=made.parent_id, is_remote=False, trace_state={}
        )
    return made


@dataclass(frozen=True)
class Connection:
    """How the process is connected to OpenTelemetry.

    Attributes:
        processor: Gives every span to its trace.
        provider: Ours, which has no limits.
        tracer: Makes our own spans.
    """

    processor: TraceProcessor
    provider: TracerProvider
    tracer: otel.Tracer


@functools.cache
def connect() -> Connection:
    """Connect the process to OpenTelemetry.

    Done once a process, as OpenTelemetry has one global provider. Ours becomes the global one when there is none;
    else our processor joins the one that is there, so that agents' own spans are captured. Our own spans always come
    from our provider: a sampler or an attribute limit of somebody else's must not lose a reward or a prompt.

    Raises:
        ConfigurationError: The environment switches OpenTelemetry off.
    """
    processor = TraceProcessor()
    resource = Resource({LightningResourceAttributes.TRACER_NAME.value: "otel"})
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, span_limits=_NO_LIMITS)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("agentlightning")
    if isinstance(tracer, otel.NoOpTracer):
        raise ConfigurationError("OTEL_SDK_DISABLED is set, so nothing can be traced: unset it, or use DummyTracer")
    present = otel.get_tracer_provider()
    if isinstance(present, otel.ProxyTracerProvider):
        otel.set_tracer_provider(provider)
    elif isinstance(present, TracerProvider):
        present.add_span_processor(processor)
    else:
        logger.warning(
            "The global OpenTelemetry provider is a %s, not one of the SDK: only spans of agentlightning are captured",
            type(present).__name__,
        )
    return Connection(processor, provider, tracer)


def open_traces() -> list[ActiveTrace]:
    """Return the open traces that take spans without a context: the only one does, of several none."""
    is_connected = connect.cache_info().currsize > 0  # asking must not connect the process
    return connect().processor.open_traces() if is_connected else []


def dropped_spans() -> dict[str, int]:
    """Return how many spans of each name this process has dropped because no trace was theirs."""
    return dict(connect().processor.dropped)
