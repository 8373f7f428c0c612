"""Spans in JSON and out of it, without validating them: that would change what a lenient producer wrote, and costs."""

from __future__ import annotations

from typing import Any

from agentlightning.store.construct import construct
from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, TraceStatus


def values_of(span: Span) -> dict[str, Any]:
    """Return a span's fields, unknown ones included, for a JSON writer.

    The plain dict, not the model: its serializer would try each type of each attribute in turn.
    """
    return span.__dict__ | (span.__pydantic_extra__ or {})


def span_of(values: dict[str, Any]) -> Span:
    """Build a span from the values of its JSON, and take them over."""
    values["status"] = construct(TraceStatus, values["status"])
    values["events"] = [construct(Event, event) for event in values["events"]]
    values["links"] = [_link_of(link) for link in values["links"]]
    values["context"] = _context_of(values["context"])
    values["parent"] = _context_of(values["parent"])
    values["resource"] = construct(OtelResource, values["resource"])
    return construct(Span, values)


def _link_of(values: dict[str, Any]) -> Link:
    values["context"] = _context_of(values["context"])
    return construct(Link, values)


def _context_of(values: dict[str, Any] | None) -> SpanContext | None:
    return None if values is None else construct(SpanContext, values)
