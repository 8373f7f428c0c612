"""OtelTracer: captures every OpenTelemetry span of an agent, its own and those of the libraries it uses."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as otel
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import Status

from agentlightning._internal.text import shortened, text_of
from agentlightning.tracer.active import ActiveTrace
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.instrument import Instrument, chosen, instrumentors
from agentlightning.tracer.processor import connect
from agentlightning.types import Attributes, Span, SpanCoreFields, StatusCode, TraceStatus
from agentlightning.types.attributes import format_exception_attributes, sanitize_attributes

if TYPE_CHECKING:
    from agentlightning.store import LightningStore

_NANOSECONDS = 1_000_000_000


class OtelTracer(Tracer):
    """Records into the global OpenTelemetry provider; all instances of a process share one span processor.

    Calls of SDKs and frameworks are recorded by the OpenInference instrumentors of the extra `instrument`, from
    `init_worker` to `teardown_worker`. "auto" costs nothing until an agent imports an SDK, and then about 0.6 ms of
    processor time a call; give None where the gateway sees every call anyway and calls are as short as that.

    Args:
        instrument: "auto" for whatever instrumentor is installed, a list of names such as `["openai", "langchain"]`,
            or None.

    Raises:
        MissingExtra: A named instrumentor is not installed.
    """

    def __init__(self, instrument: Instrument = "auto") -> None:
        super().__init__()
        self._instrument = chosen(instrument)
        self._is_holding = False

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_is_holding": False}

    def init_worker(self, worker_id: int, store: LightningStore | None = None, *args: Any, **kwargs: Any) -> None:
        """Remember the worker and its store, and switch the instrumentors on; see `Tracer.init_worker`."""
        super().init_worker(worker_id, store, *args, **kwargs)
        if not self._is_holding:
            self._is_holding = True
            instrumentors().hold(self._instrument)

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Forget the worker; the instrumentors are switched off once no tracer and no open trace needs them."""
        super().teardown_worker(worker_id, *args, **kwargs)
        if self._is_holding:
            self._is_holding = False
            instrumentors().release(self._instrument)

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Record a span that starts and ends at once; see `Tracer.create_span`."""
        tracer = connect().tracer
        moment = time.time_ns() if timestamp is None else _nanoseconds(timestamp)
        attributes = sanitize_attributes(attributes or {})
        span = tracer.start_span(name, attributes=attributes, start_time=moment)
        if status is not None:
            span.set_status(Status(to_otel_status_code(status.status_code), _description(status)))
        span.end(moment)
        seconds = moment / _NANOSECONDS
        return SpanCoreFields(
            name=name,
            status=status or TraceStatus(status_code="UNSET"),
            attributes=attributes,
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
        tracer = connect().tracer
        start = None if start_time is None else _nanoseconds(start_time)
        span = tracer.start_span(name, attributes=sanitize_attributes(attributes or {}), start_time=start)
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
        connection = connect()
        instrumentors().hold(self._instrument)  # there may be no worker, or its teardown may come before this end
        try:
            with connection.processor.opened(trace):
                yield connection.tracer
        finally:
            instrumentors().release(self._instrument)


class OtelSpanRecordingContext:
    """Records into an open OpenTelemetry span."""

    def __init__(self, span: otel.Span) -> None:
        self._span = span

    def record_exception(self, exception: BaseException) -> None:
        """Record an exception as an event and set the status to ERROR."""
        self._span.add_event("exception", format_exception_attributes(exception))
        self.record_status("ERROR", f"{type(exception).__name__}: {shortened(text_of(exception))}")

    def record_attributes(self, attributes: Attributes) -> None:
        """Add attributes."""
        self._span.set_attributes(sanitize_attributes(attributes))

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
