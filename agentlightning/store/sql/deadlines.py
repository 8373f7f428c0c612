"""Deadlines: ending the attempts that lived or were silent too long, and when to look again.

Whoever watches the clock runs `expire_due` when a deadline has come, then sleeps until `earliest_deadline` or until a
commit reports an earlier one (`Changes.deadline`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from agentlightning.store.sql.leases import put_off_deadlines
from agentlightning.store.sql.moves import end_attempt, find_attempt, find_rollout
from agentlightning.store.sql.transaction import Transaction
from agentlightning.types.lifecycle import LIVE, AttemptEvent

_BATCH: Final = 100
"""The most attempts that expire in one transaction: it bounds how long others wait for it."""

_DUE: Final = """
    SELECT a.rollout_id, a.attempt_id FROM attempts a JOIN rollouts r ON r.rollout_id = a.rollout_id
    WHERE a.{column} <= ? AND a.{column} IS NOT NULL AND a.status IN ('preparing', 'running')
    ORDER BY a.{column} LIMIT ? FOR UPDATE OF r SKIP LOCKED
"""
_STILL_DUE: Final = "SELECT 1 FROM attempts WHERE rollout_id = ? AND attempt_id = ? AND {column} <= ?"
_EARLIEST: Final = """
    SELECT
        (SELECT MIN(a.timeout_at) FROM attempts a
         WHERE a.timeout_at IS NOT NULL AND a.status IN ('preparing', 'running')),
        (SELECT MIN(a.silent_at) FROM attempts a
         WHERE a.silent_at IS NOT NULL AND a.status IN ('preparing', 'running'))
"""


async def expire_due(tx: Transaction, limit: int) -> int:
    """End up to `limit` live attempts whose deadline has come; returns how many.

    Where both deadlines have come, the attempt lived too long. Rollouts that another transaction holds are left to it.
    """
    timed_out = await _expire(tx, "timeout_at", "set_timeout", limit)
    return timed_out + await _expire(tx, "silent_at", "set_unresponsive", limit - timed_out)


async def earliest_deadline(tx: Transaction) -> float | None:
    """Return when the next live attempt is over, by the lease clock; None if none has a deadline."""
    row = await tx.fetch_one(_EARLIEST)
    assert row is not None
    return min((time for time in row if time is not None), default=None)


async def enforce_deadlines(tx: Transaction, away: float) -> float | None:
    """End what is due, or a good part of it; returns when to come back, None for when somebody reports a deadline.

    Args:
        tx: The transaction.
        away: For how many seconds nobody could renew a lease; they do not count.
    """
    if away:
        await put_off_deadlines(tx, away)
    await expire_due(tx, _BATCH)
    return await earliest_deadline(tx)


async def _expire(tx: Transaction, column: Literal["timeout_at", "silent_at"], event: AttemptEvent, limit: int) -> int:
    due = await tx.fetch(_DUE.format(column=column), (tx.clock, limit)) if limit > 0 else []
    expired = 0
    for rollout_id, attempt_id in due:
        expired += await _expire_one(tx, (rollout_id, attempt_id), column, event)
    return expired


async def _expire_one(tx: Transaction, key: Sequence[str], column: str, event: AttemptEvent) -> bool:
    # What was found before the rollout was locked may have changed until then.
    rollout, attempt = await find_rollout(tx, key[0]), await find_attempt(tx, key[0], key[1])
    due = await tx.fetch_one(_STILL_DUE.format(column=column), (*key, tx.clock))
    if rollout is None or attempt is None or attempt.status not in LIVE or due is None:
        return False
    await end_attempt(tx, rollout, attempt, event)
    return True
