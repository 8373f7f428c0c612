"""Retention: what finished long ago, or is not among the newest, leaves the store; what lives never does."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Final

from agentlightning.errors import InvalidValue
from agentlightning.store.sql.checks import check_integer, check_optional_time
from agentlightning.store.sql.transaction import Transaction

_ROLLOUTS: Final = 200
_SPANS: Final = 500
"""The most that one transaction takes out, so that writers wait for some ten milliseconds at most."""

# The rollout that wrote the last span stays: the end of the spans is where their readers go on, and SQLite would give
# its number to the next span if it went.
_PRUNABLE: Final = """
    FROM rollouts r WHERE r.finish_position > ? AND r.finish_position < ? AND r.end_time < ?
    AND r.rollout_id <> COALESCE((SELECT s.rollout_id FROM spans s ORDER BY s.position DESC LIMIT 1), '')
"""
_NEXT: Final = (
    f"SELECT r.rollout_id, r.finish_position {_PRUNABLE} ORDER BY r.finish_position LIMIT {_ROLLOUTS} FOR UPDATE OF r"
)
_DELETE_SPANS: Final = """
    DELETE FROM spans WHERE position IN (SELECT position FROM spans WHERE rollout_id = ? LIMIT ?)
"""


@dataclass(slots=True, frozen=True)
class Pruned:
    """How much was taken out."""

    rollouts: int = 0
    attempts: int = 0
    spans: int = 0


@dataclass(slots=True, frozen=True)
class Sweep:
    """How far a pruning has come.

    Attributes:
        finished_before: Rollouts may go whose finish position is smaller
        ended_before: and whose end time is earlier.
        only_spans: Whether rollouts and attempts stay.
        cursor: The finish position up to which all is done; None when everything is.
        found: How many rollouts may go.
        seen: How many of them are done.
        pruned: How much went so far.
    """

    finished_before: int
    ended_before: float
    only_spans: bool = False
    cursor: int | None = 0
    found: int = 0
    seen: int = 0
    pruned: Pruned = Pruned()


def check_policy(older_than: float | None, keep: int | None) -> None:
    """Refuse what is no policy.

    Raises:
        InvalidValue: With what is wrong.
    """
    if older_than is None and keep is None:
        raise InvalidValue("pass older_than, keep or both: without them everything would go")
    check_optional_time(older_than, "older_than")
    if keep is not None:
        check_integer(keep, "keep")
    if (older_than or 0) < 0 or (keep or 0) < 0:
        raise InvalidValue(f"older_than is {older_than} and keep {keep}: neither can be negative")


async def plan(tx: Transaction, older_than: float | None, keep: int | None, *, only_spans: bool) -> Sweep:
    """Return the beginning of a sweep that applies a policy as of now."""
    sweep = Sweep(
        finished_before=await _oldest_kept(tx, keep) if keep else await _next_end(tx),
        ended_before=sys.float_info.max if older_than is None else tx.now - older_than,
        only_spans=only_spans,
    )
    row = await tx.fetch_one(f"SELECT COUNT(*) {_PRUNABLE}", (0, sweep.finished_before, sweep.ended_before))
    return replace(sweep, found=row[0] if row else 0)


async def _oldest_kept(tx: Transaction, keep: int) -> int:
    row = await tx.fetch_one(
        "SELECT r.finish_position FROM rollouts r WHERE r.finish_position IS NOT NULL "
        "ORDER BY r.finish_position DESC LIMIT 1 OFFSET ?",
        (keep - 1,),
    )
    return row[0] if row else 0


async def _next_end(tx: Transaction) -> int:
    """What ends from now on stays, whatever the policy."""
    ((last,),) = await tx.fetch(
        "SELECT COALESCE(MAX(r.finish_position), 0) FROM rollouts r WHERE r.finish_position IS NOT NULL"
    )
    return last + 1


async def step(tx: Transaction, sweep: Sweep) -> Sweep:
    """Take out the next few rollouts."""
    assert sweep.cursor is not None
    rollouts, attempts, room, cursor, seen = 0, 0, _SPANS, sweep.cursor, sweep.seen
    rows = await tx.fetch(_NEXT, (cursor, sweep.finished_before, sweep.ended_before))
    for rollout_id, finish_position in rows:
        room -= await tx.execute(_DELETE_SPANS, (rollout_id, room))
        if not room:  # there may be more of them
            break
        if not sweep.only_spans:
            attempts += await tx.execute("DELETE FROM attempts WHERE rollout_id = ?", (rollout_id,))
            rollouts += await tx.execute("DELETE FROM rollouts WHERE rollout_id = ?", (rollout_id,))
        cursor = finish_position
        seen += 1
    done, before = bool(room) and len(rows) < _ROLLOUTS, sweep.pruned
    pruned = Pruned(before.rollouts + rollouts, before.attempts + attempts, before.spans + _SPANS - room)
    return replace(sweep, cursor=None if done else cursor, seen=seen, pruned=pruned)
