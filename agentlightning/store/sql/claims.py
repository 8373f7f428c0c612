"""Claims, and how one that its caller never heard of is undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentlightning.store.sql import workers
from agentlightning.store.sql.moves import (
    AttemptState,
    RolloutState,
    count_up,
    end_attempt,
    find_attempt,
    find_rollout,
    follow_latest_attempt,
)
from agentlightning.store.sql.transaction import Transaction
from agentlightning.types import AttemptedRollout, Rollout
from agentlightning.types.lifecycle import FINISHED, LIVE, QUEUED

_RESTORE: Final = """
    UPDATE rollouts SET status = ?, end_time = ?, latest_attempt_id = ?, finish_position = ? WHERE rollout_id = ?
"""
_UNTOUCHED: Final = """
    SELECT a.queued_as FROM attempts a WHERE a.rollout_id = ? AND a.attempt_id = ? AND a.queued_as IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM spans s WHERE s.rollout_id = a.rollout_id AND s.attempt_id = a.attempt_id)
"""
_RETURN: Final = """
    UPDATE rollouts SET status = ?, latest_attempt_id = (
        SELECT attempt_id FROM attempts WHERE rollout_id = ? ORDER BY sequence_id DESC LIMIT 1)
    WHERE rollout_id = ?
"""


@dataclass(slots=True, frozen=True)
class Claim:
    """A new attempt, with what was there before it.

    Attributes:
        made: The rollout with its new attempt.
        before: The rollout until then; None if it came with the attempt.
        former: The rollout's latest attempt until then.
        recalled: Whether this is an earlier request's claim, of which only `made` is known.
    """

    made: AttemptedRollout
    before: Rollout | None = None
    former: AttemptState | None = None
    recalled: bool = False


async def undo_claims(tx: Transaction, claims: Sequence[Claim]) -> None:
    """Undo claims that nobody heard of, so that the store is as if they had never been.

    That is no step of the lifecycle but the withdrawal of one: statuses return to what they were. An attempt that
    something happened to meanwhile cannot vanish; it fails, unless somebody works on it. A recalled claim is undone
    only if it came from the queue.
    """
    for claim in claims:
        rollout = await find_rollout(tx, claim.made.rollout_id)
        attempt = await find_attempt(tx, claim.made.rollout_id, claim.made.attempt.attempt_id)
        if rollout is None or attempt is None or attempt.status != "preparing":
            continue
        if claim.recalled:
            await withdraw_if_untouched(tx, rollout, attempt)
        elif (rollout.status, rollout.latest_attempt_id) == ("preparing", attempt.attempt_id):
            await _erase(tx, attempt)
            await _restore(tx, claim)
        else:
            await end_attempt(tx, rollout, attempt, "set_failed")


async def withdraw_claim(tx: Transaction, claim: Claim) -> None:
    """Undo an earlier request's claim, unless somebody works on it; one that came past the queue fails."""
    rollout = await find_rollout(tx, claim.made.rollout_id)
    attempt = await find_attempt(tx, claim.made.rollout_id, claim.made.attempt.attempt_id)
    if rollout is None or attempt is None or attempt.status != "preparing":
        return
    if not await withdraw_if_untouched(tx, rollout, attempt):
        await end_attempt(tx, rollout, attempt, "set_failed")


async def withdraw_if_untouched(tx: Transaction, rollout: RolloutState, attempt: AttemptState) -> bool:
    """Undo a claim from the queue, unless something came of it; returns whether it was undone.

    The rollout waits where it waited before, and its next attempt has this one's number.
    """
    if attempt.status != "preparing":
        return False
    if (rollout.status, rollout.latest_attempt_id) != ("preparing", attempt.attempt_id):
        return False
    row = await tx.fetch_one(_UNTOUCHED, (attempt.rollout_id, attempt.attempt_id))
    if row is None:
        return False
    await _erase(tx, attempt)
    await tx.execute(_RETURN, (row[0], rollout.rollout_id, rollout.rollout_id))
    tx.changes.enqueued += 1
    return True


async def _erase(tx: Transaction, attempt: AttemptState) -> None:
    """Remove an attempt; its worker holds it no more."""
    key = (attempt.rollout_id, attempt.attempt_id)
    await workers.leave(tx, attempt.worker_id, *key)
    await tx.execute("DELETE FROM attempts WHERE rollout_id = ? AND attempt_id = ?", key)


async def _restore(tx: Transaction, claim: Claim) -> None:
    """Make the rollout of an erased attempt what it was before."""
    made, before, former = claim.made, claim.before, claim.former
    if before is None:
        await tx.execute("DELETE FROM rollouts WHERE rollout_id = ?", (made.rollout_id,))
        return
    former_id = former.attempt_id if former else None
    # A new position: whoever read on meanwhile would never hear of one that is behind.
    finish_position = await count_up(tx, "finish") if before.status in FINISHED else None
    await tx.execute(_RESTORE, (before.status, before.end_time, former_id, finish_position, made.rollout_id))
    if before.status in QUEUED:
        tx.changes.enqueued += 1
    if before.status in FINISHED:
        tx.changes.rollouts.append((made.rollout_id, True))
    if former:
        await _catch_up(tx, former)


async def _catch_up(tx: Transaction, former: AttemptState) -> None:
    """While it was not the latest, a change of the former attempt's status moved nothing; let it count now."""
    rollout = await find_rollout(tx, former.rollout_id)
    attempt = await find_attempt(tx, former.rollout_id, former.attempt_id)
    if rollout is None or attempt is None:
        return
    if attempt.status != former.status:
        await follow_latest_attempt(tx, rollout, attempt)
    elif attempt.status in LIVE:  # its worker had left it
        await workers.follow(tx, attempt.worker_id, attempt.rollout_id, attempt.attempt_id, attempt.status)
