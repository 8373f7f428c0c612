"""DummyTracer: records spans without OpenTelemetry."""

from __future__ import annotations

import functools
import time
from collections.abc import Generator
from contextlib import contextmanager

from agentlightning._internal.text import shortened, text_of
from agentlightning.tracer.active import ActiveTrace, SpanRecord, active_trace
from agentlightning.tracer.base import Tracer
from agentlightning.types import Attributes, Span, SpanCoreFields, StatusCode, TraceStatus
from agentlightning.types.attributes import format_exception_attributes, sanitize_attributes

_Place = tuple[ActiveTrace, SpanRecord]


class DummyTracer(Tracer):
    """Returns spans, and keeps those made inside its own traces; spans of libraries are not seen."""

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Record a span that starts and ends at once; the status defaults to OK."""
        place = self._start()
        recording = DummySpanRecordingContext(name, attributes, timestamp)
        if status is not None:
            recording.record_status(status.status_code, status.description)
        recording.finalize(recording.start_time)
        return _end(place, recording)

    @contextmanager
    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Generator[DummySpanRecordingContext]:
        """Record a span around a block; see `Tracer.operation_context`."""
        place = self._start()
        recording = DummySpanRecordingContext(name, attributes, start_time)
        try:
            yield recording
        except BaseException as error:
            recording.record_exception(error)
            raise
        finally:
            recording.finalize(end_time)
            _end(place, recording)

    def _start(self) -> _Place | None:
        trace = active_trace()
        return (trace, trace.start()) if trace is not None and trace.tracer is self else None


class DummySpanRecordingContext:
    """Records an operation in memory.

    Args:
        name: The name of the span.
        attributes: Its first attributes.
        start_time: When it started, in Unix seconds; now by default.
    """

    def __init__(self, name: str, attributes: Attributes | None = None, start_time: float | None = None) -> None:
        self.name = name
        self.attributes: Attributes = sanitize_attributes(attributes or {})
        self.start_time = time.time() if start_time is None else start_time
        self.end_time: float | None = None
        self.status = TraceStatus(status_code="OK")

    def record_exception(self, exception: BaseException) -> None:
        """Add the exception's attributes and set the status to ERROR."""
        self.record_attributes(format_exception_attributes(exception))
        self.record_status("ERROR", f"{type(exception).__name__}: {shortened(text_of(exception))}")

    def record_attributes(self, attributes: Attributes) -> None:
        """Add attributes."""
        self.attributes.update(sanitize_attributes(attributes))

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Set the status."""
        self.status = TraceStatus(status_code=status_code, description=description)

    def finalize(self, end_time: float | None = None) -> None:
        """End the span, at `end_time` in Unix seconds or now."""
        self.end_time = time.time() if end_time is None else end_time

    def get_recorded_span(self) -> SpanCoreFields:
        """Return what was recorded.

        Raises:
            ValueError: The operation is not over.
        """
        if self.end_time is None:
            raise ValueError(f"the span {self.name!r} has not ended yet")
        return SpanCoreFields(
            name=self.name,
            status=self.status,
            attributes=self.attributes,
            start_time=self.start_time,
            end_time=self.end_time,
        )


def _end(place: _Place | None, recording: DummySpanRecordingContext) -> SpanCoreFields:
    core = recording.get_recorded_span()
    if place is not None:
        trace, record = place
        trace.end(record, functools.partial(Span.from_core_fields, core))
    return core
