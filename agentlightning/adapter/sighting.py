"""From spans to sightings: which spans tell of a model call, and what each says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, cast

from agentlightning.adapter.reading import Sighting
from agentlightning.adapter.sources import READERS
from agentlightning.types import LLMCall, Span
from agentlightning.types.chat_shape import load_dict, text
from agentlightning.types.llm_call_span import RESPONSE_ID, SUPERSEDES

_NOT_RECEIVED: Final = "the agent did not get the answer and asked again"


def sightings(spans: Sequence[Span]) -> Iterator[tuple[Span, Sighting]]:
    """Read each span that tells of a model call, in the order given."""
    below: dict[str, list[Span]] = {}
    for span in spans:
        if span.parent_id is not None:
            below.setdefault(span.parent_id, []).append(span)
    superseded = {
        (span.attempt_id, text(span.attributes, SUPERSEDES)) for span in spans if SUPERSEDES in span.attributes
    }
    for span in spans:
        sighting = _sighting(span, below.get(span.span_id, ()))
        if sighting is None:
            continue
        if sighting.answers and superseded and (span.attempt_id, span.span_id) in superseded:
            sighting = replace(sighting, answers=(), failure=_NOT_RECEIVED)
        yield span, sighting


def _sighting(span: Span, below: Sequence[Span]) -> Sighting | None:
    for source, read in READERS.items():
        try:
            answers = read(span, below)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            # Anybody may have written the span. What cannot be read is reported, and ends nothing.
            return _made(span, source, (), f"its attributes cannot be read: {type(error).__name__}: {error}")
        if answers is not None:
            return _made(span, source, answers, _failure(span, answers))
    return None


def _failure(span: Span, answers: Sequence[LLMCall]) -> str | None:
    if span.status.status_code == "ERROR":
        return span.status.description or _exception(span) or "it ended in an error that says nothing"
    return None if answers else "no finished answer was recorded"


def _exception(span: Span) -> str | None:
    messages = (event.attributes.get("exception.message") for event in span.events if event.name == "exception")
    return next((message for message in messages if isinstance(message, str) and message), None)


def _made(span: Span, source: str, answers: Sequence[LLMCall], failure: str | None) -> Sighting:
    return Sighting(
        span_id=span.span_id,
        name=span.name,
        source=source,
        scope=_scope(span),
        answers=() if failure else tuple(answers),
        failure=failure,
        silent=failure is not None and span.status.status_code != "ERROR",
        response_id=next((each.response_id for each in answers if each.response_id), None) or _begun_response(span),
    )


def _begun_response(span: Span) -> str | None:
    """Return the id of an answer of which only the beginning is there."""
    return text(span.attributes, RESPONSE_ID) or text(load_dict(span.attributes.get("output.value")), "id")


def _scope(span: Span) -> str | None:
    """Return the library that wrote the span; the store keeps it as OpenTelemetry says it."""
    scope = (span.model_extra or {}).get("instrumentation_scope")
    name = cast("dict[str, object]", scope).get("name") if isinstance(scope, dict) else None
    return name if isinstance(name, str) else None
