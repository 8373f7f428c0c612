"""Received spans on their way into the store: numbered, written, and rejected one by one where that fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from agentlightning.errors import InvalidValue, NotFound
from agentlightning.store.base import LightningStore
from agentlightning.store.otlp.spans import UNNUMBERED, ReceivedTraces
from agentlightning.types import Span

Allow: TypeAlias = Callable[[str, str], bool]
"""Whether the caller may write to this rollout's attempt."""

_SHOWN: Final = 100


async def write_traces(store: LightningStore, received: ReceivedTraces, allow: Allow) -> Counter[str]:
    """Write what was received; returns why spans were rejected, and how many for each reason.

    Spans that the store holds already are neither written nor rejected: the exporter sent them twice.
    """
    rejected = received.rejected.copy()
    allowed = {pair: allow(*pair) for pair in _pairs(received.spans)}
    spans = _without(rejected, "may not be written by this caller", received.spans, allowed)
    while spans:
        try:
            await _number(store, spans)
            return rejected + await _write(store, spans)
        except (NotFound, InvalidValue):
            exists = await _existing(store, _pairs(spans))
            if all(exists.values()):
                raise
            spans = _without(rejected, "does not exist", spans, exists)
    return rejected


def _pairs(spans: Iterable[Span]) -> set[tuple[str, str]]:
    return {(span.rollout_id, span.attempt_id) for span in spans}


def _without(rejected: Counter[str], what: str, spans: Sequence[Span], kept: dict[tuple[str, str], bool]) -> list[Span]:
    """Return the spans of the attempts that are kept, and count the others."""
    remaining: list[Span] = []
    for span in spans:
        if kept[span.rollout_id, span.attempt_id]:
            remaining.append(span)
        else:
            rollout_id, attempt_id = span.rollout_id[:_SHOWN], span.attempt_id[:_SHOWN]
            rejected[f"attempt {attempt_id!a} of rollout {rollout_id!a} {what}"] += 1
    return remaining


async def _number(store: LightningStore, spans: Sequence[Span]) -> None:
    unnumbered = [span for span in spans if span.sequence_id == UNNUMBERED]
    if not unnumbered:
        return
    numbers = await store.get_many_span_sequence_ids([(span.rollout_id, span.attempt_id) for span in unnumbered])
    for span, number in zip(unnumbered, numbers, strict=True):
        span.sequence_id = number


async def _write(store: LightningStore, spans: Sequence[Span]) -> Counter[str]:
    """Write spans; where the store refuses a value, in ever smaller parts, so that no span fails another."""
    try:
        await store.add_many_spans(spans)
    except InvalidValue as error:
        if len(spans) == 1:
            return Counter([str(error)[: 4 * _SHOWN]])
        middle = len(spans) // 2
        return await _write(store, spans[:middle]) + await _write(store, spans[middle:])
    return Counter()


async def _existing(store: LightningStore, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bool]:
    """Say of each rollout and attempt whether the store has it."""
    attempts = {rollout_id: await _attempts(store, rollout_id) for rollout_id in {pair[0] for pair in pairs}}
    return {(rollout_id, attempt_id): attempt_id in attempts[rollout_id] for rollout_id, attempt_id in pairs}


async def _attempts(store: LightningStore, rollout_id: str) -> set[str]:
    try:
        return {attempt.attempt_id for attempt in await store.query_attempts(rollout_id)}
    except InvalidValue:  # nothing can have an id that the store cannot keep
        return set()
