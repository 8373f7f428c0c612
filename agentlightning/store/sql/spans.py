"""Spans: what happened in the attempts, and the numbers that order them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from pydantic_core import to_json

from agentlightning.errors import NotFound
from agentlightning.store.sql import workers
from agentlightning.store.sql.attempts import existing_attempt
from agentlightning.store.sql.filters import Conditions, Paging, fetch_page, text_key, time_key
from agentlightning.store.sql.moves import (
    AttemptState,
    RolloutState,
    lock_rollouts,
    move_attempt,
    move_rollout,
    write_attempt,
    write_rollout,
)
from agentlightning.store.sql.span_rows import INSERT, SPAN, EncodedSpan, span_of_row
from agentlightning.store.sql.transaction import Transaction, Value
from agentlightning.types import PaginatedResult, Span
from agentlightning.types.lifecycle import ENDED, FINISHED, LIVE

_SORTABLE: Final = {
    "rollout_id": "rollout_id",
    "attempt_id": "attempt_id",
    "sequence_id": "sequence_id",
    "trace_id": "trace_id",
    "span_id": "span_id",
    "parent_id": text_key("parent_id"),
    "name": "name",
    "start_time": "start_time_ns",
    "end_time": time_key("end_time"),
}
_HELD: Final = """
    SELECT span_id FROM spans
    WHERE rollout_id = ? AND attempt_id = ? AND span_id IN (SELECT value FROM json_each(?))
"""


async def add_many_spans(tx: Transaction, spans: Sequence[EncodedSpan]) -> list[Any]:
    """Write spans; returns the new ones, or their fields where these were given."""
    groups: dict[tuple[str, str], list[EncodedSpan]] = {}
    for span in spans:
        groups.setdefault(span.key, []).append(span)
    if len(groups) > 1:
        await lock_rollouts(tx, {rollout_id for rollout_id, _ in groups})
    return [span for key, group in groups.items() for span in await _add_to_attempt(tx, key, group)]


async def _add_to_attempt(tx: Transaction, key: tuple[str, str], spans: list[EncodedSpan]) -> list[Any]:
    rollout, attempt = await existing_attempt(tx, *key)
    is_over = attempt.attempt_id != rollout.latest_attempt_id or rollout.status in FINISHED
    late = attempt.status in ENDED or (attempt.status == "unresponsive" and is_over)
    new = await (_insert_one if len(spans) == 1 else _insert)(tx, key, spans, late)
    if not new:
        return []
    await _note(tx, rollout, attempt, max(span.sequence_id for span in new), late=late)
    return [_late(span.source) if late else span.source for span in new]


def _late(source: Span | dict[str, Any]) -> Span | dict[str, Any]:
    return source | {"late": True} if isinstance(source, dict) else source.model_copy(update={"late": True})


async def _insert_one(tx: Transaction, key: tuple[str, str], spans: list[EncodedSpan], late: bool) -> list[EncodedSpan]:
    """Like `_insert`, in one statement."""
    inserted = await tx.execute(f"{INSERT} ON CONFLICT DO NOTHING", (*spans[0].columns, int(late)))
    return spans[:inserted]


async def _insert(tx: Transaction, key: tuple[str, str], spans: list[EncodedSpan], late: bool) -> list[EncodedSpan]:
    """Write and return the first of each span id that the attempt does not hold yet."""
    first = {span.span_id: span for span in reversed(spans)}
    for (span_id,) in await tx.fetch(_HELD, (*key, to_json(list(first)).decode())):
        del first[span_id]
    new = spans if len(first) == len(spans) else [span for span in spans if first.get(span.span_id) is span]
    await tx.execute_many(INSERT, [(*span.columns, int(late)) for span in new])
    return new


async def _note(tx: Transaction, rollout: RolloutState, attempt: AttemptState, sequence_id: int, *, late: bool) -> None:
    """Spans came, up to this number: the attempt is not silent, and it runs unless they are late."""
    heard: dict[str, Value] = {"last_heartbeat_time": tx.now}
    if attempt.silence is not None:
        heard["silent_at"] = tx.clock + attempt.silence
    counted: dict[str, Value] = {"span_counter": sequence_id} if sequence_id > rollout.span_counter else {}
    before, is_latest = attempt.status, attempt.attempt_id == rollout.latest_attempt_id
    if late:
        await write_attempt(tx, attempt, heard)
    else:
        await move_attempt(tx, attempt, "span", heard)
    if is_latest and attempt.status != before:
        if before not in LIVE:  # while it lived, its worker was busy with it
            await workers.follow(tx, attempt.worker_id, attempt.rollout_id, attempt.attempt_id, attempt.status)
        await move_rollout(tx, rollout, "attempt_running", counted)
    else:
        await write_rollout(tx, rollout.rollout_id, counted)


async def get_many_span_sequence_ids(tx: Transaction, rollout_ids: Sequence[str]) -> list[int]:
    """Reserve the next sequence id of each rollout, in order."""
    counts = Counter(rollout_ids)
    last = {rollout_id: await _reserve(tx, rollout_id, count) for rollout_id, count in sorted(counts.items())}
    numbers: list[int] = []
    for rollout_id in reversed(rollout_ids):
        numbers.append(last[rollout_id])
        last[rollout_id] -= 1
    return numbers[::-1]


async def _reserve(tx: Transaction, rollout_id: str, count: int) -> int:
    row = await tx.fetch_one(
        "UPDATE rollouts SET span_counter = span_counter + ? WHERE rollout_id = ? RETURNING span_counter",
        (count, rollout_id),
    )
    if row is None:
        raise NotFound(f"Rollout {rollout_id} not found")
    return row[0]


async def query_spans(
    tx: Transaction, rollout_id: str, attempt_id: str | None, conditions: Conditions, paging: Paging
) -> PaginatedResult[Span]:
    """Return a page of spans of a rollout, of all attempts or of one, which may be "latest"."""
    where, params = f"rollout_id = ? AND {conditions.sql()}", [rollout_id, *conditions.params]
    if attempt_id == "latest":
        where += " AND attempt_id = (SELECT latest_attempt_id FROM rollouts WHERE rollout_id = ?)"
        params.append(rollout_id)
    elif attempt_id is not None:
        where += " AND attempt_id = ?"
        params.append(attempt_id)
    order = paging.order(_SORTABLE, "start_time_ns, position")
    sql = f"SELECT {SPAN} FROM spans WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"
    rows, total = await fetch_page(tx, sql, f"spans WHERE {where}", params, paging)
    return PaginatedResult[Span].model_construct(
        items=[span_of_row(row) for row in rows], limit=paging.limit, offset=paging.offset, total=total
    )
