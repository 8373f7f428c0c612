"""OtelTracer: captures every OpenTelemetry span of an agent, its own and those of the libraries it uses."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace as otel
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import Status

from agentlightning._internal.text import text_of
from agentlightning.tracer.active import ActiveTrace
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.processor import install
from agentlightning.types import Attributes, Span, SpanCoreFields, StatusCode, TraceStatus
from agentlightning.types.attributes import format_exception_attributes

_NANOSECONDS = 1_000_000_000


class OtelTracer(Tracer):
    """Records into the global OpenTelemetry provider; all instances of a process share one span processor."""

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Record a span that starts and ends at once; see `Tracer.create_span`."""
        _, tracer = install()
        moment = time.time_ns() if timestamp is None else _nanoseconds(timestamp)
        span = tracer.start_span(name, attributes=attributes, start_time=moment)
        if status is not None:
            span.set_status(Status(to_otel_status_code(status.status_code), _description(status)))
        span.end(moment)
        seconds = moment / _NANOSECONDS
        return SpanCoreFields(
            name=name,
            status=status or TraceStatus(status_code="UNSET"),
            attributes=dict(attributes or {}),
            start_time=seconds,
            end_time=seconds,
        )

    @contextmanager
    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Generator[OtelSpanRecordingContext]:
        """Record a span around a block, the parent of the spans inside; see `Tracer.operation_context`."""
        _, tracer = install()
        start = None if start_time is None else _nanoseconds(start_time)
        span = tracer.start_span(name, attributes=attributes, start_time=start)
        recording = OtelSpanRecordingContext(span)
        try:
            with otel.use_span(span, record_exception=False, set_status_on_exception=False):
                yield recording
        except BaseException as error:
            recording.record_exception(error)
            raise
        finally:
            span.end(None if end_time is None else _nanoseconds(end_time))

    @contextmanager
    def _opened(self, trace: ActiveTrace) -> Generator[Any]:
        processor, tracer = install()
        with processor.opened(trace):
            yield tracer


class OtelSpanRecordingContext:
    """Records into an open OpenTelemetry span."""

    def __init__(self, span: otel.Span) -> None:
        self._span = span

    def record_exception(self, exception: BaseException) -> None:
        """Record an exception as an event and set the status to ERROR."""
        self._span.add_event("exception", format_exception_attributes(exception))
        self.record_status("ERROR", f"{type(exception).__name__}: {text_of(exception)}")

    def record_attributes(self, attributes: Attributes) -> None:
        """Add attributes."""
        self._span.set_attributes(attributes)

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Set the status."""
        self._span.set_status(to_otel_status_code(status_code), description)

    def get_otel_span(self) -> otel.Span:
        """Return the OpenTelemetry span."""
        return self._span

    def get_recorded_span(self) -> SpanCoreFields:
        """Return what was recorded so far."""
        assert isinstance(self._span, SdkSpan), "our provider records every span"
        span = Span.from_opentelemetry(self._span, "", "", 0)
        return SpanCoreFields(**{field: getattr(span, field) for field in SpanCoreFields.model_fields})


def to_otel_status_code(status_code: StatusCode) -> otel.StatusCode:
    """Return OpenTelemetry's status code of this name."""
    return otel.StatusCode[status_code]


def _description(status: TraceStatus) -> str | None:
    """OpenTelemetry knows descriptions of errors only."""
    return status.description if status.status_code == "ERROR" else None


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)
