"""Brief answers: who sent spans has them, and needs to hear only which of them were new.

A request asks for one with `Prefer: return=minimal`; a number and whether the span was late stand for each span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import TypeAdapter
from pydantic_core import to_json

from agentlightning.store.span_json import SpansOnTheWire
from agentlightning.types import Span

HEADER: Final = "prefer"
MINIMAL: Final = "return=minimal"
_ENTRIES: Final = TypeAdapter(list[tuple[int, bool]])


def encode_brief(stored: Sequence[Span], sent: Sequence[Span]) -> bytes:
    """Return what stands for the stored ones among the spans that were sent."""
    by_object = {id(span): number for number, span in enumerate(_unbuilt(sent))}
    numbers = [by_object.get(id(span)) for span in _unbuilt(stored)]
    if None not in numbers:  # as a store in this process returns them, unless they were late
        return to_json([(number, False) for number in numbers])
    by_key = {_key(span): number for number, span in reversed(list(enumerate(sent)))}
    return to_json([(by_key[_key(span)], _is_late(span)) for span in stored])


def decode_brief(body: bytes, sent: Sequence[Span]) -> list[Span] | None:
    """Return the stored ones among the spans that were sent; None if the answer is not brief, but holds spans.

    Raises:
        ValueError: It is no answer to these spans.
    """
    if body.startswith(b"[{"):
        return None
    try:
        return [_as_stored(sent[number], late) for number, late in _ENTRIES.validate_json(body)]
    except IndexError as error:
        raise ValueError(f"it names spans that were not sent: {error}") from error


def _unbuilt(spans: Sequence[Span]) -> Sequence[object]:
    return spans.values if isinstance(spans, SpansOnTheWire) else spans


def _as_stored(span: Span, late: bool) -> Span:
    return span.model_copy(update={"late": True}) if late and not _is_late(span) else span


def _is_late(span: Span) -> bool:
    return (span.model_extra or {}).get("late") is True


def _key(span: Span) -> tuple[str, str, str]:
    return span.rollout_id, span.attempt_id, span.span_id
