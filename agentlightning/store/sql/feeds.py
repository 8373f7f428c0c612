"""Feeds: what finished and what was written, each read going on where the last one ended."""

from __future__ import annotations

from typing import Any, Final

from agentlightning.errors import InvalidValue
from agentlightning.store.sql.checks import check_integer
from agentlightning.store.sql.codec import ATTEMPT_FIELDS, ROLLOUT_FIELDS, columns, rollout_with_attempt_of
from agentlightning.store.sql.filters import ALL
from agentlightning.store.sql.span_rows import SPAN, span_of_row
from agentlightning.store.sql.transaction import Row, Transaction
from agentlightning.types import FinishedRollouts, SpanBatch

# Restarting a rollout takes its finish position away, so this holds none that is unfinished.
_FINISHED: Final = f"""
    SELECT r.finish_position, {columns(ROLLOUT_FIELDS, "r")}, {columns(ATTEMPT_FIELDS, "a")}
    FROM rollouts r LEFT JOIN attempts a ON a.rollout_id = r.rollout_id AND a.attempt_id = r.latest_attempt_id
    WHERE r.finish_position > ? ORDER BY r.finish_position LIMIT ?
"""
_LAST_FINISHED: Final = "SELECT COALESCE(MAX(finish_position), 0) FROM rollouts"
_SPANS: Final = f"SELECT position, {SPAN} FROM spans WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
# The index alone tells which spans come next; only those are read.
_SPANS_OF_ROLLOUT: Final = f"""
    SELECT position, {SPAN} FROM spans WHERE position IN (
        SELECT position FROM spans WHERE rollout_id = ? AND position > ? ORDER BY position LIMIT ?)
    ORDER BY position
"""


def check_reading(cursor: Any, limit: Any) -> None:
    """Refuse what says neither where to read on nor how much.

    Raises:
        InvalidValue: With what is wrong.
    """
    check_integer(cursor, "cursor")
    check_integer(limit, "limit")
    if limit < 1:
        raise InvalidValue(f"limit is {limit}: read at least 1")


async def read_finished_rollouts(tx: Transaction, cursor: int, limit: int) -> FinishedRollouts:
    """Return the rollouts that finished after the one at `cursor`, with their latest attempts; for -1 the end alone."""
    if cursor < 0:
        return FinishedRollouts(items=[], cursor=(await tx.fetch(_LAST_FINISHED))[0][0])
    rows = await tx.fetch(_FINISHED, (cursor, limit))
    return FinishedRollouts.model_construct(
        items=[rollout_with_attempt_of(row[1:]) for row in rows], cursor=_end_of(rows, cursor)
    )


async def read_spans(tx: Transaction, rollout_id: str | None, cursor: int, limit: int, until: int = ALL) -> SpanBatch:
    """Return the spans that were written after the one at `cursor`; of all rollouts, those up to a position."""
    if rollout_id is None:
        rows = await tx.fetch(_SPANS, (cursor, until, limit))
    else:
        rows = await tx.fetch(_SPANS_OF_ROLLOUT, (rollout_id, cursor, limit))
    return SpanBatch.model_construct(items=[span_of_row(row[1:]) for row in rows], cursor=_end_of(rows, cursor))


def _end_of(rows: list[Row], cursor: int) -> int:
    return rows[-1][0] if rows else cursor
