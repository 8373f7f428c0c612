"""A worker's word on what it holds, and the end of a worker that can say nothing more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, TypeAlias

from agentlightning.store.sql import workers
from agentlightning.store.sql.attempts import get_attempt
from agentlightning.store.sql.claims import withdraw_if_untouched
from agentlightning.store.sql.leases import RENEW
from agentlightning.store.sql.moves import (
    AttemptState,
    RolloutState,
    end_attempt,
    find_attempt,
    find_rollout,
    follow_latest_attempt,
    move_attempt,
)
from agentlightning.store.sql.transaction import Row, Transaction
from agentlightning.types import Attempt, LeaseRenewal
from agentlightning.types.lifecycle import FINISHED, LIVE

Key: TypeAlias = tuple[str, str]
"""Rollout id and attempt id."""

_OF_WORKER: Final = "a.worker_id = ? AND a.status IN ('preparing', 'running')"
_LIVE: Final = f"""
    SELECT a.rollout_id, a.attempt_id, r.position FROM attempts a JOIN rollouts r ON r.rollout_id = a.rollout_id
    WHERE {_OF_WORKER} ORDER BY 1, 2
"""
_HELD: Final = f"SELECT a.rollout_id, a.attempt_id FROM {workers.HELD}"
_UNHEARD: Final = f"""
    SELECT a.rollout_id, a.attempt_id, r.position FROM attempts a JOIN rollouts r ON r.rollout_id = a.rollout_id
    WHERE {_OF_WORKER} AND a.claimed_by = a.worker_id AND a.lease_start < ? ORDER BY 1, 2
"""
_RENEW: Final = f"""
    UPDATE attempts SET last_heartbeat_time = ?, {RENEW}
    WHERE rollout_id = ? AND attempt_id = ? AND status IN ('preparing', 'running')
"""


async def renew_leases(
    tx: Transaction, worker_id: str, listed: Collection[Key], as_of: float | None, stats: bytes | None
) -> LeaseRenewal:
    """Renew what the worker lists and still holds, and release what it was given before `as_of` and does not list.

    What it lists and was only silent lives again, unless its rollout has ended or a newer attempt took its place.
    An `as_of` that is yet to come is of another clock, that of a machine before it was started again, and says nothing.
    """
    await workers.lock_work(tx, worker_id)
    held: set[Key] = {(row[0], row[1]) for row in await tx.fetch(_HELD, (worker_id,))}
    held |= {key for key in sorted(set(listed) - held) if await _revived(tx, worker_id, key)}
    await tx.execute_many(_RENEW, [(tx.now, tx.clock, *key) for key in listed if key in held])
    former_stats = await workers.last_stats(tx, worker_id)
    await workers.record_heartbeat(tx, worker_id, stats)
    if as_of is not None and as_of <= tx.clock:
        unheard = [row for row in await tx.fetch(_UNHEARD, (worker_id, as_of)) if (row[0], row[1]) not in listed]
        for rollout, attempt in await _locked(tx, worker_id, unheard):
            if not await withdraw_if_untouched(tx, rollout, attempt):
                await end_attempt(tx, rollout, attempt, "set_unresponsive")
    lost = [key for key in listed if key not in held]
    return LeaseRenewal(time=tx.clock, lost=lost, former_stats=former_stats)


async def _revived(tx: Transaction, worker_id: str, key: Key) -> bool:
    """Let an attempt live again that its worker holds and that was only silent; returns whether it was."""
    rollout, attempt = await find_rollout(tx, key[0]), await find_attempt(tx, *key)
    if rollout is None or attempt is None or (attempt.status, attempt.worker_id) != ("unresponsive", worker_id):
        return False
    if rollout.latest_attempt_id != attempt.attempt_id or rollout.status in FINISHED:
        return False
    await move_attempt(tx, attempt, "span")
    await follow_latest_attempt(tx, rollout, attempt)
    return True


async def release_worker(tx: Transaction, worker_id: str) -> list[Attempt]:
    """End all leases of a worker; returns the attempts, now unresponsive."""
    released: list[Attempt] = []
    await workers.lock_work(tx, worker_id)
    for rollout, attempt in await _locked(tx, worker_id, await tx.fetch(_LIVE, (worker_id,))):
        await end_attempt(tx, rollout, attempt, "set_unresponsive")
        released.append(await get_attempt(tx, rollout.rollout_id, attempt.attempt_id))
    await workers.forget(tx, worker_id)
    return released


async def _locked(tx: Transaction, worker_id: str, rows: Sequence[Row]) -> list[tuple[RolloutState, AttemptState]]:
    """Lock in the order of ids, as whoever locks several does, and return what is still there, oldest rollout first."""
    found = [(row[2], states) for row in rows if (states := await _lock(tx, worker_id, row[0], row[1]))]
    return [states for _, states in sorted(found, key=lambda one: (one[0], one[1][1].sequence_id))]


async def _lock(
    tx: Transaction, worker_id: str, rollout_id: str, attempt_id: str
) -> tuple[RolloutState, AttemptState] | None:
    """Lock the rollout of a live attempt of the worker; None if it is that no more."""
    rollout, attempt = await find_rollout(tx, rollout_id), await find_attempt(tx, rollout_id, attempt_id)
    if rollout is None or attempt is None or attempt.status not in LIVE or attempt.worker_id != worker_id:
        return None
    return rollout, attempt
