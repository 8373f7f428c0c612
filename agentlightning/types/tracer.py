"""Spans: what happened in an attempt, in OpenTelemetry's shape with the store's identity added."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias, cast

from opentelemetry.sdk.trace import Event as OtelEvent, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link as OtelLink, SpanContext as OtelSpanContext, format_span_id, format_trace_id
from pydantic import BaseModel, ConfigDict

from agentlightning import semconv
from agentlightning._internal.ids import generate_id
from agentlightning._internal.text import encodable, storable, text_of

AttributeValue: TypeAlias = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
Attributes: TypeAlias = dict[str, AttributeValue]
TraceState: TypeAlias = dict[str, str]
StatusCode: TypeAlias = Literal["UNSET", "OK", "ERROR"]

_NANOSECONDS = 1_000_000_000


class SpanContext(BaseModel):
    """Where a span stands: 32 hex characters of trace, 16 of span."""

    model_config = ConfigDict(extra="allow")

    trace_id: str
    span_id: str
    is_remote: bool
    trace_state: TraceState


class TraceStatus(BaseModel):
    """How a span ended."""

    model_config = ConfigDict(extra="allow")

    status_code: StatusCode
    description: str | None = None


class Event(BaseModel):
    """Something that happened at one moment of a span; `timestamp` in Unix seconds."""

    model_config = ConfigDict(extra="allow")

    name: str
    attributes: Attributes
    timestamp: float | None = None


class Link(BaseModel):
    """A reference from one span to another."""

    model_config = ConfigDict(extra="allow")

    context: SpanContext
    attributes: Attributes | None = None


class OtelResource(BaseModel):
    """The OpenTelemetry resource: who produced a span."""

    attributes: Attributes
    schema_url: str


class SpanCoreFields(BaseModel):
    """What a span says, without saying whose it is; times in Unix seconds."""

    name: str
    status: TraceStatus
    attributes: Attributes
    start_time: float | None
    end_time: float | None


class Span(BaseModel):
    """One thing that happened in one attempt.

    Readers order spans by `(sequence_id, start_time_ns)`. `start_time_ns` and `end_time_ns` hold the exact
    nanoseconds where the source has them; `start_time` and `end_time` are the same in (rounded) seconds.
    """

    model_config = ConfigDict(extra="allow")

    rollout_id: str
    attempt_id: str
    sequence_id: int
    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    status: TraceStatus
    attributes: Attributes
    events: list[Event]
    links: list[Link]
    start_time: float | None
    end_time: float | None
    context: SpanContext | None
    parent: SpanContext | None
    resource: OtelResource
    start_time_ns: int | None = None
    end_time_ns: int | None = None

    @classmethod
    def from_opentelemetry(cls, src: ReadableSpan, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
        """Convert a span of the OpenTelemetry SDK; kind, scope and counts of what was dropped are extra fields."""
        context, parent = src.get_span_context(), src.parent
        return cls.model_construct(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            trace_id=format_trace_id(context.trace_id if context else 0),
            span_id=format_span_id(context.span_id if context else 0),
            parent_id=format_span_id(parent.span_id) if parent else None,
            name=storable(text_of(src.name)),
            status=TraceStatus(status_code=src.status.status_code.name, description=_plain(src.status.description)),
            attributes=_plain_attributes(src.attributes),
            events=[_event(event) for event in src.events],
            links=[_link(link) for link in src.links],
            start_time=_seconds(src.start_time),
            end_time=_seconds(src.end_time),
            start_time_ns=_whole(src.start_time),
            end_time_ns=_whole(src.end_time),
            context=_context(context),
            parent=_context(parent),
            resource=OtelResource(
                attributes=_plain_attributes(src.resource.attributes), schema_url=src.resource.schema_url
            ),
            kind=src.kind.name,
            instrumentation_scope=_scope(src.instrumentation_scope),
            **_dropped(src),
        )

    @classmethod
    def from_attributes(
        cls,
        *,
        attributes: Attributes,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
        name: str | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        parent_id: str | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
        resource: OtelResource | None = None,
        status: TraceStatus | None = None,
    ) -> Span:
        """Build a span from attributes; missing ids are random, rollout and attempt default to `""`."""
        trace_id = trace_id or generate_id(32)
        span_id = span_id or generate_id(16)
        return cls(
            rollout_id=rollout_id or "",
            attempt_id=attempt_id or "",
            sequence_id=sequence_id or 0,
            trace_id=trace_id,
            span_id=span_id,
            parent_id=parent_id,
            name=name or semconv.AGL_VIRTUAL,
            status=status or TraceStatus(status_code="OK"),
            attributes=attributes,
            events=[],
            links=[],
            start_time=start_time,
            end_time=end_time,
            context=SpanContext(trace_id=trace_id, span_id=span_id, is_remote=False, trace_state={}),
            parent=(
                SpanContext(trace_id=trace_id, span_id=parent_id, is_remote=False, trace_state={})
                if parent_id
                else None
            ),
            resource=resource or OtelResource(attributes={}, schema_url=""),
        )

    @classmethod
    def from_core_fields(
        cls,
        core: SpanCoreFields,
        *,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
    ) -> Span:
        """Give an id-less span an identity; a missing start time becomes now."""
        return cls.from_attributes(
            attributes=core.attributes,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            name=core.name,
            start_time=core.start_time or time.time(),
            end_time=core.end_time,
            status=core.status,
        )


SpanLike: TypeAlias = ReadableSpan | Span


class SpanRecordingContext(Protocol):
    """What an open operation lets its body record."""

    def record_exception(self, exception: BaseException) -> None:
        """Record an exception and set the status to ERROR."""
        ...

    def record_attributes(self, attributes: Attributes) -> None:
        """Add attributes."""
        ...

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Set the status."""
        ...

    def get_recorded_span(self) -> SpanCoreFields:
        """Return what was recorded, once the operation is over."""
        ...


class SpanNames(StrEnum):
    """Span names under their v0.3 enum; new code uses `agentlightning.semconv`."""

    REWARD = semconv.AGL_REWARD
    MESSAGE = semconv.AGL_MESSAGE
    OBJECT = semconv.AGL_OBJECT
    EXCEPTION = semconv.AGL_EXCEPTION
    VIRTUAL = semconv.AGL_VIRTUAL
    ROLLOUT_ID = "agentlightning.rollout_id"
    ATTEMPT_ID = "agentlightning.attempt_id"
    SPAN_SEQUENCE_ID = "agentlightning.span_sequence_id"


class SpanAttributeNames(StrEnum):
    """Attribute keys under their v0.3 enum; new code uses `agentlightning.semconv`."""

    MESSAGE = "message"
    OBJECT = "object"


def convert_timestamp(timestamp: float | None) -> float | None:
    """Return Unix seconds for seconds or nanoseconds (values above 1e12); None for None and 0."""
    if not timestamp:
        return None
    return timestamp / _NANOSECONDS if timestamp > 1e12 else timestamp


def _seconds(nanoseconds: object) -> float | None:
    whole = _whole(nanoseconds)
    return None if whole is None else whole / _NANOSECONDS


def _whole(nanoseconds: object) -> int | None:
    """Return nanoseconds; None for what an agent or a library gave in their place, which the SDK lets pass."""
    return int(nanoseconds) if isinstance(nanoseconds, (int, float)) and math.isfinite(nanoseconds) else None


def _plain_attributes(attributes: Mapping[str, Any] | None) -> Attributes:
    return {encodable(key): _plain(value) for key, value in (attributes or {}).items()}


def _plain(value: Any) -> Any:
    """OpenTelemetry keeps sequences as tuples, any text, and bytes; JSON and readers know lists, UTF-8, and text."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return _plain_attributes(cast("Mapping[str, Any]", value))
    return [_plain(item) for item in cast("tuple[Any, ...]", value)] if isinstance(value, tuple) else value


def _scope(scope: InstrumentationScope | None) -> dict[str, Any] | None:
    if scope is None:
        return None
    further = {"attributes": _plain_attributes(scope.attributes), "schema_url": scope.schema_url}
    return {"name": scope.name, "version": scope.version or None} | {key: val for key, val in further.items() if val}


def _dropped(span: ReadableSpan) -> dict[str, Any]:
    """Count what the SDK's limits took away; a limit that took nothing is not mentioned."""
    counts = {
        "dropped_attributes_count": span.dropped_attributes,
        "dropped_events_count": span.dropped_events,
        "dropped_links_count": span.dropped_links,
    }
    return {name: count for name, count in counts.items() if count}


def _context(context: OtelSpanContext | None) -> SpanContext | None:
    if context is None:
        return None
    return SpanContext.model_construct(
        trace_id=format_trace_id(context.trace_id),
        span_id=format_span_id(context.span_id),
        is_remote=context.is_remote,
        trace_state=dict(context.trace_state),
    )


def _event(event: OtelEvent) -> Event:
    return Event(
        name=text_of(event.name),
        attributes=_plain_attributes(event.attributes),
        timestamp=_seconds(event.timestamp),
    )


def _link(link: OtelLink) -> Link:
    context = _context(link.context)
    assert context is not None
    return Link(context=context, attributes=_plain_attributes(link.attributes))
