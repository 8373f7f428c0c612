"""Spans in JSON and out of it.

Their form is checked, what their attributes hold is not: that would change what a lenient producer wrote, and costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Annotated, Any, Final, TypeAlias, overload

from pydantic import AfterValidator, BaseModel, ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic reads no other below Python 3.12

from agentlightning.store.construct import construct
from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, StatusCode, TraceStatus


def values_of(model: BaseModel) -> dict[str, Any]:
    """Return the fields of a span, or of a part of it, unknown ones included, for a JSON writer.

    The plain dict, not the model: its serializer would try each type of each attribute in turn.
    """
    return model.__dict__ | (model.__pydantic_extra__ or {})


def span_of(values: dict[str, Any]) -> Span:
    """Build a span from the values of its JSON, and take them over."""
    values["status"] = construct(TraceStatus, values["status"])
    values["events"] = [construct(Event, event) for event in values["events"]]
    values["links"] = [_link_of(link) for link in values["links"]]
    values["context"] = _context_of(values["context"])
    values["parent"] = _context_of(values["parent"])
    values["resource"] = construct(OtelResource, values["resource"])
    return construct(Span, values)


class SpansOnTheWire(Sequence[Span]):
    """The spans of a request, built when somebody looks at them: a store that keeps their JSON need not.

    Attributes:
        values: The fields of each, as they came; nobody may change them.
    """

    def __init__(self, values: list[dict[str, Any]]) -> None:
        self.values: Final = values
        self._spans: list[Span] | None = None

    @overload
    def __getitem__(self, index: int) -> Span: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Span]: ...

    def __getitem__(self, index: int | slice) -> Span | Sequence[Span]:
        return self._built[index]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._built)

    @property
    def _built(self) -> list[Span]:
        if self._spans is None:
            self._spans = [span_of(values) for values in deepcopy(self.values)]
        return self._spans


_FORM = ConfigDict(strict=True, extra="allow")


@with_config(_FORM)
class _Status(TypedDict):
    status_code: StatusCode


@with_config(_FORM)
class _Context(TypedDict):
    trace_id: str
    span_id: str


@with_config(_FORM)
class _Event(TypedDict):
    name: str


@with_config(_FORM)
class _Link(TypedDict):
    context: _Context


@with_config(_FORM)
class _Resource(TypedDict):
    attributes: dict[str, Any]
    schema_url: str


@with_config(_FORM)
class _Span(TypedDict):
    rollout_id: str
    attempt_id: str
    sequence_id: int
    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    status: _Status
    attributes: dict[str, Any]
    events: list[_Event]
    links: list[_Link]
    start_time: float | None
    end_time: float | None
    context: _Context | None
    parent: _Context | None
    resource: _Resource


SpanOnTheWire: TypeAlias = Annotated[_Span, AfterValidator(span_of)]
"""A span in a JSON schema: read with its form checked, it becomes a `Span`."""

SpansOfRequest: TypeAlias = Annotated[list[_Span], AfterValidator(SpansOnTheWire)]
"""Spans in the JSON schema of a request: read with their form checked, they become `SpansOnTheWire`."""

SpanOfStore: TypeAlias = Annotated[Any, AfterValidator(span_of)]
"""A span in the JSON of a store, which checked its form when it was written."""


def _link_of(values: dict[str, Any]) -> Link:
    values["context"] = _context_of(values["context"])
    return construct(Link, values)


def _context_of(values: dict[str, Any] | None) -> SpanContext | None:
    return None if values is None else construct(SpanContext, values)
