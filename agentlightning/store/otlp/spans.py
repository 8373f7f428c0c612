"""OTLP's spans as the store's: the same span reads the same as if the SDK's object had been converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp
from opentelemetry.trace import TraceState

from agentlightning.errors import TooLarge
from agentlightning.semconv import LightningResourceAttributes
from agentlightning.store.otlp.payload import decode_request
from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, StatusCode, TraceStatus

UNNUMBERED: Final = -1
"""`sequence_id` of a span that names none."""
MAX_SPANS: Final = 20_000
"""The most spans of one request: each takes some kilobytes of memory until it is written."""

_ROLLOUT_ID: Final = LightningResourceAttributes.ROLLOUT_ID.value
_ATTEMPT_ID: Final = LightningResourceAttributes.ATTEMPT_ID.value
_SEQUENCE_ID: Final = LightningResourceAttributes.SPAN_SEQUENCE_ID.value
_LATEST_NS: Final = 2**63 - 1
_LARGEST_SEQUENCE_ID: Final = 2**53 - 1
_NANOSECONDS: Final = 1_000_000_000
_STATUS: Final[dict[int, StatusCode]] = {
    otlp.Status.STATUS_CODE_OK: "OK",
    otlp.Status.STATUS_CODE_ERROR: "ERROR",
}
_KIND: Final[dict[int, str]] = {
    otlp.Span.SPAN_KIND_SERVER: "SERVER",
    otlp.Span.SPAN_KIND_CLIENT: "CLIENT",
    otlp.Span.SPAN_KIND_PRODUCER: "PRODUCER",
    otlp.Span.SPAN_KIND_CONSUMER: "CONSUMER",
}


@dataclass(slots=True)
class ReceivedTraces:
    """What a request holds.

    Attributes:
        spans: The spans that say whose they are; `sequence_id` is `UNNUMBERED` where a span names none.
        rejected: Why the others cannot be kept, and how many there are of each.
    """

    spans: list[Span] = field(default_factory=list[Span])
    rejected: Counter[str] = field(default_factory=Counter[str])


def parse_traces(
    body: bytes, content_type: str | None, content_encoding: str | None = None, *, max_bytes: int
) -> ReceivedTraces:
    """Read a request.

    Args:
        body: Its bytes.
        content_type: `application/x-protobuf` or `application/json`.
        content_encoding: `gzip`, `deflate` or none.
        max_bytes: The most that the body may hold when decompressed.

    Raises:
        InvalidValue: The body cannot be read.
        TooLarge: It holds more than `max_bytes`, `MAX_SPANS` or `MAX_OBJECTS`.
    """
    request = decode_request(body, content_type, content_encoding, max_bytes)
    count = sum(len(scoped.spans) for group in request.resource_spans for scoped in group.scope_spans)
    if count > MAX_SPANS:
        raise TooLarge(f"the request holds {count} spans: send at most {MAX_SPANS} at once")
    received = ReceivedTraces()
    for span, scope, resource in _each(request):
        reason = _why_unusable(span)
        attributes = _attributes(span.attributes)
        rollout_id, attempt_id, sequence_id = _identity(attributes, resource.attributes)
        if not (rollout_id and attempt_id):
            reason = f"neither its attributes nor its resource's name both {_ROLLOUT_ID} and {_ATTEMPT_ID}"
        if reason is None:
            received.spans.append(_span(span, attributes, (rollout_id, attempt_id, sequence_id), scope, resource))
        else:
            received.rejected[reason] += 1
    return received


def _each(request: ExportTraceServiceRequest) -> Iterator[tuple[otlp.Span, dict[str, Any], OtelResource]]:
    for group in request.resource_spans:
        resource = OtelResource.model_construct(
            attributes=_attributes(group.resource.attributes), schema_url=group.schema_url
        )
        for scoped in group.scope_spans:
            scope = _scope(scoped)
            for span in scoped.spans:
                yield span, scope, resource


def _why_unusable(span: otlp.Span) -> str | None:
    if not any(span.span_id) or len(span.span_id) > 8:
        return "its span id is not 8 bytes, or all zero"
    if not any(span.trace_id) or len(span.trace_id) > 16:
        return "its trace id is not 16 bytes, or all zero"
    if max(span.start_time_unix_nano, span.end_time_unix_nano) > _LATEST_NS:
        return "its times lie beyond the year 2262"
    return None


def _identity(attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return rollout, attempt and sequence id; what a span itself says wins over its resource."""
    rollout_id, attempt_id, sequence_id = (
        resource.get(key) if attributes.get(key) is None else attributes[key]
        for key in (_ROLLOUT_ID, _ATTEMPT_ID, _SEQUENCE_ID)
    )
    return _text(rollout_id), _text(attempt_id), _number(sequence_id)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _number(value: Any) -> int:
    try:
        number = UNNUMBERED if isinstance(value, bool) else int(value)
    except (TypeError, ValueError, OverflowError):
        return UNNUMBERED
    return number if 0 <= number <= _LARGEST_SEQUENCE_ID else UNNUMBERED


def _span(
    span: otlp.Span,
    attributes: dict[str, Any],
    identity: tuple[str, str, int],
    scope: dict[str, Any],
    resource: OtelResource,
) -> Span:
    rollout_id, attempt_id, sequence_id = identity
    context = _context(span.trace_id, span.span_id, span.trace_state, is_remote=False)
    parent = None
    if any(span.parent_span_id):
        parent = _context(span.trace_id, span.parent_span_id, span.trace_state, is_remote=_is_remote(span.flags))
    return Span.model_construct(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        sequence_id=sequence_id,
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_id=parent.span_id if parent else None,
        name=span.name,
        status=TraceStatus.model_construct(
            status_code=_STATUS.get(span.status.code, "UNSET"), description=span.status.message or None
        ),
        attributes=attributes,
        events=[_event(event) for event in span.events],
        links=[_link(link) for link in span.links],
        start_time=_seconds(span.start_time_unix_nano),
        end_time=_seconds(span.end_time_unix_nano),
        start_time_ns=span.start_time_unix_nano or None,
        end_time_ns=span.end_time_unix_nano or None,
        context=context,
        parent=parent,
        resource=resource,
        kind=_KIND.get(span.kind, "INTERNAL"),
        instrumentation_scope=scope,
        **_present(
            flags=span.flags,
            dropped_attributes_count=span.dropped_attributes_count,
            dropped_events_count=span.dropped_events_count,
            dropped_links_count=span.dropped_links_count,
        ),
    )


def _event(event: otlp.Span.Event) -> Event:
    return Event.model_construct(
        name=event.name,
        attributes=_attributes(event.attributes),
        timestamp=_seconds(event.time_unix_nano),
        **_present(dropped_attributes_count=event.dropped_attributes_count),
    )


def _link(link: otlp.Span.Link) -> Link:
    return Link.model_construct(
        context=_context(link.trace_id, link.span_id, link.trace_state, is_remote=_is_remote(link.flags)),
        attributes=_attributes(link.attributes),
        **_present(dropped_attributes_count=link.dropped_attributes_count),
    )


def _context(trace_id: bytes, span_id: bytes, trace_state: str, *, is_remote: bool) -> SpanContext:
    return SpanContext.model_construct(
        trace_id=trace_id.hex().zfill(32),
        span_id=span_id.hex().zfill(16),
        is_remote=is_remote,
        trace_state=dict(TraceState.from_header([trace_state])) if trace_state else {},
    )


def _is_remote(flags: int) -> bool:
    return bool(flags & otlp.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)


def _scope(scoped: otlp.ScopeSpans) -> dict[str, Any]:
    scope = scoped.scope
    return {
        "name": scope.name,
        "version": scope.version or None,
        **_present(attributes=_attributes(scope.attributes), schema_url=scoped.schema_url),
    }


def _present(**fields: Any) -> dict[str, Any]:
    """Leave out what is zero or empty, which in protobuf is what nobody wrote."""
    return {name: value for name, value in fields.items() if value}


def _seconds(nanoseconds: int) -> float | None:
    return nanoseconds / _NANOSECONDS if nanoseconds else None


def _attributes(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "bytes_value":
        return value.bytes_value.hex()
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
