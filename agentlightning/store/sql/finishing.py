"""The end of an attempt: its last spans and its status, in one."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.errors import InvalidValue
from agentlightning.store.base import UNPLACED
from agentlightning.store.sql.attempts import update_attempt
from agentlightning.store.sql.span_rows import EncodedSpan
from agentlightning.store.sql.spans import add_many_spans, get_many_span_sequence_ids
from agentlightning.store.sql.transaction import Transaction, Value
from agentlightning.types import Attempt, AttemptStatus


async def finish_attempt(
    tx: Transaction,
    key: tuple[str, str],
    status: AttemptStatus,
    spans: Sequence[EncodedSpan],
    changes: dict[str, Value],
) -> Attempt:
    """Write the spans, number those that have no place in the order in which they are given, and set the status."""
    for span in spans:
        if span.key != key:
            raise InvalidValue(f"span {span.span_id} is not of attempt {key[1]} of rollout {key[0]}")
    unplaced = [number for number, span in enumerate(spans) if span.sequence_id == UNPLACED]
    placed = list(spans)
    sequence_ids = await get_many_span_sequence_ids(tx, [key[0]] * len(unplaced)) if unplaced else []
    for number, sequence_id in zip(unplaced, sequence_ids, strict=True):
        placed[number] = spans[number].placed(sequence_id)
    if placed:
        await add_many_spans(tx, placed)
    return await update_attempt(tx, *key, status, changes)
