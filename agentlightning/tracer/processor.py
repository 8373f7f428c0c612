"""The one OpenTelemetry span processor of the process, which gives every span to its trace."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span as SdkSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from agentlightning.errors import ConfigurationError
from agentlightning.semconv import LightningResourceAttributes
from agentlightning.tracer.active import ActiveTrace, SpanRecord, active_trace
from agentlightning.types import Span

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


class TraceProcessor(SpanProcessor):
    """Finds the trace of each span in its context.

    A span without one goes to the only open trace of the process, or is dropped if there is not exactly one.

    Attributes:
        dropped: How many spans were dropped.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._lock = threading.Lock()
        self._open: set[ActiveTrace] = set()
        self._records: dict[tuple[int, int], SpanRecord] = {}

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

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Reserve the span's place in its trace."""
        trace = active_trace(parent_context) or active_trace() or self._only_open()
        if trace is None:
            return
        context = span.get_span_context()
        key = context.trace_id, context.span_id
        self._records[key] = trace.start()
        # A span that never ends takes its record along when it goes.
        weakref.finalize(span, self._records.pop, key, None).atexit = False

    def on_end(self, span: ReadableSpan) -> None:
        """Give the span to its trace."""
        context = span.get_span_context()
        record = self._records.pop((context.trace_id, context.span_id), None) if context else None
        if record is not None:
            record.trace.end(record, functools.partial(Span.from_opentelemetry, span))

    def _only_open(self) -> ActiveTrace | None:
        with self._lock:
            if len(self._open) == 1:
                return next(iter(self._open))
            self.dropped += 1
        logger.debug("Dropped a span outside of any trace (%d so far)", self.dropped)
        return None


@functools.cache
def install() -> tuple[TraceProcessor, otel.Tracer]:
    """Connect the process to OpenTelemetry and return its processor and the tracer for our own spans.

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
    return processor, tracer
