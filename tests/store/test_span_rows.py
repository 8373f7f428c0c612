"""A span comes out of its row as it went in, whatever of it the row leaves out."""

from typing import Any

import pytest
from pydantic_core import to_json

from agentlightning.store.span_json import values_of
from agentlightning.store.sql.span_rows import encode_span, span_of_row
from agentlightning.types import OtelResource, Span, SpanContext, TraceStatus

USUAL = Span.from_attributes(
    attributes={"answer": 42}, rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=1795410925.9062562
)
UNUSUAL = {
    "usual": {},
    "beginning": {"start_time": 0.0},
    "negative-zero": {"start_time": -0.0},
    "before-1970": {"start_time": -1.5},
    "less-than-a-nanosecond": {"start_time": 1e-12},
    "far": {"start_time": 8.9e9 + 0.1},
    "no-start": {"start_time": None},
    "whole": {"start_time": 5},
    "nanoseconds": {"start_time": 1795410925.9062562, "start_time_ns": 1795410925906256200, "end_time_ns": 7},
    "other-nanoseconds": {"start_time": 1.0, "start_time_ns": 2},
    "unset": {"status": TraceStatus(status_code="UNSET")},
    "described": {"status": TraceStatus(status_code="OK", description="")},
    "more-of-a-status": {"status": TraceStatus.model_validate({"status_code": "OK", "code": 1})},
    "remote": {"context": SpanContext(trace_id=USUAL.trace_id, span_id=USUAL.span_id, is_remote=True, trace_state={})},
    "no-context": {"context": None},
    "resource": {"resource": OtelResource(attributes={"service": "x"}, schema_url="")},
    "more": {"mine": {"b": 1, "a": [2]}},
}


@pytest.mark.parametrize("changes", UNUSUAL.values(), ids=UNUSUAL)
def test_round_trip(changes: dict[str, Any]) -> None:
    span = Span.model_construct(**{**values_of(USUAL), **changes})
    before = to_json(values_of(span))
    encoded = encode_span(span)
    *said, start_time_ns, body, numbers = encoded.columns
    assert to_json(values_of(span_of_row((*said, start_time_ns, body, numbers, False)))) == before
    assert to_json(values_of(span)) == before


def test_the_usual_is_left_out() -> None:
    assert encode_span(USUAL).columns[-2] == b'{"attributes":{"answer":42}}'
