"""Spans in rows and out of them.

A row is short, for a row's bytes are what a write costs: its body is JSON of what neither the columns nor most spans
say, and long lists of numbers are packed beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, cast

from pydantic_core import from_json

from agentlightning.store.span_json import SpansOnTheWire, span_of, values_of
from agentlightning.store.sql.checks import (
    are_plain,
    check_integer,
    check_optional_text,
    check_optional_time,
    check_text,
)
from agentlightning.store.sql.codec import encode
from agentlightning.store.sql.packing import pack, unpack
from agentlightning.store.sql.transaction import Row
from agentlightning.types import OtelResource, Span, SpanContext, TraceStatus

INSERT: Final = """
    INSERT INTO spans (rollout_id, attempt_id, span_id, sequence_id, trace_id, parent_id, name, end_time,
        start_time_ns, body, numbers, late)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SAID: Final = ("rollout_id", "attempt_id", "span_id", "sequence_id", "trace_id", "parent_id", "name", "end_time")
"""The fields that columns of their names hold exactly."""
SPAN: Final = ", ".join((*_SAID, "start_time_ns", "body", "numbers", "late"))
"""The columns that a span is built from."""

_FIELDS: Final[dict[str, Any]] = dict.fromkeys(Span.model_fields)
"""All fields in their order, which is that of a span's JSON."""

_USUAL: Final[dict[str, Any]] = {"events": [], "links": [], "parent": None, "start_time_ns": None, "end_time_ns": None}
_USUAL_STATUS: Final[dict[str, Any]] = {"status_code": "OK", "description": None}
_USUAL_RESOURCE: Final[dict[str, Any]] = {"attributes": {}, "schema_url": ""}
_PARTS: Final = (TraceStatus, SpanContext, OtelResource)

_said_by = cast("Callable[[Mapping[str, Any]], tuple[Any, ...]]", itemgetter(*_SAID))

_NANOSECONDS: Final = 1_000_000_000
_SOON: Final = 9e9
"""Seconds whose nanoseconds a column surely holds: some 285 years from 1970."""
_WITHOUT_START: Final = 2**63 - 1
_LARGEST_SEQUENCE_ID: Final = 2**53 - 1
"""The counter goes on from there for longer than anybody counts, and every reader of JSON knows the number exactly."""


class EncodedSpan(NamedTuple):
    """A span, its key and its columns but for `late`.

    Attributes:
        source: What was encoded: the span, or its fields.
    """

    source: Span | dict[str, Any]
    key: tuple[str, str]
    columns: tuple[Any, ...]

    @property
    def span_id(self) -> str:
        """The span's id."""
        return self.columns[2]

    @property
    def sequence_id(self) -> int:
        """The span's number."""
        return self.columns[3]

    def placed(self, sequence_id: int) -> EncodedSpan:
        """Return the span with another number in its columns."""
        return self._replace(columns=(*self.columns[:3], sequence_id, *self.columns[4:]))


def encode_spans(spans: Sequence[Span]) -> list[EncodedSpan]:
    """Encode spans for their rows; see `encode_span`."""
    if isinstance(spans, SpansOnTheWire):
        return [_encode(values, values) for values in spans.values]
    return [encode_span(span) for span in spans]


def encode_span(span: Span) -> EncodedSpan:
    """Encode a span for its row.

    Raises:
        InvalidValue: An attribute has no JSON form, or a number is out of range.
    """
    return _encode(span, values_of(span))


def _encode(source: Span | dict[str, Any], values: dict[str, Any]) -> EncodedSpan:
    """Encode a span from its fields, which stay as they are."""
    said = rollout_id, attempt_id, span_id, sequence_id, trace_id, parent_id, name, end_time = _said_by(values)
    if not are_plain(rollout_id, attempt_id, span_id, trace_id, name, "" if parent_id is None else parent_id):
        _check_texts(dict(zip(_SAID, said, strict=True)))
    check_integer(sequence_id, "sequence_id", _LARGEST_SEQUENCE_ID)
    start_time_ns = _start_time_ns(values)
    numbers, rest = None, _unsaid(values, trace_id, span_id, start_time_ns)
    if isinstance(rest.get("attributes"), dict):  # nobody may have validated the span
        rest["attributes"], numbers = pack(cast("dict[str, Any]", rest["attributes"]))
    columns = (
        rollout_id,
        attempt_id,
        span_id,
        sequence_id,
        trace_id,
        parent_id,
        name,
        check_optional_time(end_time, "end_time"),
        start_time_ns,
        encode(rest, f"span {span_id}"),
        numbers,
    )
    return EncodedSpan(source, (rollout_id, attempt_id), columns)


def span_of_row(row: Row) -> Span:
    """Build a span from the columns of `SPAN`."""
    *said, start_time_ns, body, numbers, late = row
    values = _FIELDS | dict(zip(_SAID, said, strict=True))
    values["status"] = _USUAL_STATUS.copy()
    values["start_time"] = start_time_ns / _NANOSECONDS
    values["events"], values["links"] = [], []
    values["context"] = _usual_context(values["trace_id"], values["span_id"])
    values["resource"] = {"attributes": {}, "schema_url": ""}
    values |= from_json(body)  # it has the last word, for rows of an older program say all in it
    if numbers is not None:
        values["attributes"].update(unpack(numbers))
    if late:
        values["late"] = True
    return span_of(values)


def _check_texts(said: dict[str, Any]) -> None:
    for name in ("rollout_id", "attempt_id", "span_id", "trace_id", "name"):
        check_text(said[name], name)
    check_optional_text(said["parent_id"], "parent_id")


def _unsaid(values: Mapping[str, Any], trace_id: str, span_id: str, start_time_ns: int) -> dict[str, Any]:
    """Return a span's fields without those that are as `span_of_row` makes them."""
    rest = dict(values)
    for name in _SAID:
        del rest[name]
    start_time = rest["start_time"]
    # A time before 1970 may be -0.0.
    if type(start_time) is float and start_time > 0 and start_time_ns / _NANOSECONDS == start_time:
        del rest["start_time"]
    for name, usual in _USUAL.items():
        if rest.get(name, ...) == usual:
            del rest[name]
    if _plain(rest.get("status")) == _USUAL_STATUS:
        del rest["status"]
    if _plain(rest.get("context")) == _usual_context(trace_id, span_id):
        del rest["context"]
    if _plain(rest.get("resource")) == _USUAL_RESOURCE:
        del rest["resource"]
    return rest


def _plain(part: Any) -> Any:
    if not isinstance(part, _PARTS):
        return part
    return values_of(part) if part.__pydantic_extra__ else part.__dict__


def _usual_context(trace_id: str, span_id: str) -> dict[str, Any]:
    return {"trace_id": trace_id, "span_id": span_id, "is_remote": False, "trace_state": {}}


def _start_time_ns(values: Mapping[str, Any]) -> int:
    start_time, start_time_ns = values["start_time"], values.get("start_time_ns")
    if start_time_ns is None and type(start_time) is float and 0 <= start_time < _SOON:
        return round(start_time * 1e9)
    check_optional_time(start_time, "start_time")
    if start_time_ns is None:
        if start_time is None:
            return _WITHOUT_START
        nanoseconds = start_time * 1e9
        check_optional_time(nanoseconds, "start_time")
        start_time_ns = round(nanoseconds)
    check_integer(start_time_ns, "start_time")
    return start_time_ns
