"""Changes of status: the one place where a rollout or an attempt takes a step of the lifecycle table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from agentlightning.store.sql import workers
from agentlightning.store.sql.codec import config_of
from agentlightning.store.sql.filters import Conditions
from agentlightning.store.sql.leases import resume_lease
from agentlightning.store.sql.transaction import Row, Transaction, Value
from agentlightning.types import AttemptStatus, RolloutConfig, RolloutStatus
from agentlightning.types.lifecycle import (
    AttemptEvent,
    Effect,
    RolloutEvent,
    attempt_event_setting,
    event_of_latest_attempt,
    next_attempt,
    next_rollout,
)


@dataclass(slots=True)
class RolloutState:
    """What the lifecycle needs to know of a rollout."""

    rollout_id: str
    status: RolloutStatus
    latest_attempt_id: str | None
    config_json: bytes
    span_counter: int = 0

    @property
    def config(self) -> RolloutConfig:
        """The rollout's configuration."""
        return config_of(self.config_json)


@dataclass(slots=True)
class AttemptState:
    """What the lifecycle needs to know of an attempt."""

    rollout_id: str
    attempt_id: str
    sequence_id: int
    status: AttemptStatus
    worker_id: str | None
    silence: float | None


NOTHING: Final[Mapping[str, Value]] = MappingProxyType({})
ROLLOUT_STATE: Final = "r.rollout_id, r.status, r.latest_attempt_id, r.config, r.span_counter"
ATTEMPT_STATE: Final = "a.rollout_id, a.attempt_id, a.sequence_id, a.status, a.worker_id, a.silence"
_LIVE: Final = f"""
    SELECT {ATTEMPT_STATE} FROM attempts a WHERE a.rollout_id = ? AND a.status IN ('preparing', 'running')
    ORDER BY a.sequence_id
"""


async def find_rollout(tx: Transaction, rollout_id: str) -> RolloutState | None:
    """Return a rollout's state and lock it for a change, or None."""
    row = await tx.fetch_one(
        f"SELECT {ROLLOUT_STATE} FROM rollouts r WHERE r.rollout_id = ? FOR UPDATE OF r", (rollout_id,)
    )
    return RolloutState(*row) if row else None


async def lock_rollouts(tx: Transaction, rollout_ids: Iterable[str]) -> None:
    """Lock several rollouts, before anything is changed of any of them."""
    named = Conditions("and")
    named.within("r.rollout_id", list(rollout_ids))
    await tx.fetch(
        f"SELECT r.rollout_id FROM rollouts r{named.where()} ORDER BY r.rollout_id FOR UPDATE OF r", named.params
    )


async def find_attempt(tx: Transaction, rollout_id: str, attempt_id: str) -> AttemptState | None:
    """Return an attempt's state, or None."""
    row = await tx.fetch_one(
        f"SELECT {ATTEMPT_STATE} FROM attempts a WHERE a.rollout_id = ? AND a.attempt_id = ?", (rollout_id, attempt_id)
    )
    return AttemptState(*row) if row else None


async def write_rollout(tx: Transaction, rollout_id: str, changes: Mapping[str, Value]) -> None:
    """Write columns of a rollout; none cost nothing."""
    if changes:
        assignments = ", ".join(f"{column} = ?" for column in changes)
        await tx.execute(f"UPDATE rollouts SET {assignments} WHERE rollout_id = ?", (*changes.values(), rollout_id))


async def write_attempt(tx: Transaction, attempt: AttemptState, changes: Mapping[str, Value]) -> None:
    """Write columns of an attempt; none cost nothing."""
    if changes:
        assignments = ", ".join(f"{column} = ?" for column in changes)
        await tx.execute(
            f"UPDATE attempts SET {assignments} WHERE rollout_id = ? AND attempt_id = ?",
            (*changes.values(), attempt.rollout_id, attempt.attempt_id),
        )


async def move_rollout(
    tx: Transaction,
    rollout: RolloutState,
    event: RolloutEvent,
    also: Mapping[str, Value] = NOTHING,
    *,
    is_of_first: bool = False,
) -> None:
    """Take a step of a rollout, with its effects.

    Args:
        tx: The transaction.
        rollout: The rollout.
        event: The step.
        also: Other columns to write with it.
        is_of_first: Whether the event is of the first attempt, the only one: if that ended, no other lives.

    Raises:
        IllegalTransition: The lifecycle has no such step.
    """
    before = rollout.status
    rollout.status, effects = next_rollout(before, event)
    changes = dict(also)
    if rollout.status != before:
        changes["status"] = rollout.status
    if Effect.END_ATTEMPTS in effects and not is_of_first:
        await _end_live_attempts(tx, rollout)
    if Effect.ENQUEUE in effects:
        changes["queue_position"] = await count_up(tx, "queue")
        tx.changes.enqueued += 1
    if Effect.END in effects:
        changes |= {"end_time": tx.now, "finish_position": await count_up(tx, "finish")}
        tx.changes.rollouts.append((rollout.rollout_id, True))
    if Effect.REOPEN in effects:
        changes |= {"end_time": None, "finish_position": None}
        tx.changes.rollouts.append((rollout.rollout_id, False))
    await write_rollout(tx, rollout.rollout_id, changes)


async def move_attempt(
    tx: Transaction, attempt: AttemptState, event: AttemptEvent, also: Mapping[str, Value] = NOTHING
) -> None:
    """Take a step of an attempt, with its effects on the attempt alone; `also` are other columns to write with it.

    Raises:
        LeaseLost: The attempt has ended.
    """
    before = attempt.status
    attempt.status, effects = next_attempt(before, event)
    changes = dict(also)
    if attempt.status != before:
        # A step without effects leads from live to live.
        changes |= {"status": attempt.status, "end_time": tx.now if Effect.END in effects else None}
    await write_attempt(tx, attempt, changes)
    if Effect.REOPEN in effects:
        await resume_lease(tx, attempt.rollout_id, attempt.attempt_id)


async def end_attempt(tx: Transaction, rollout: RolloutState, attempt: AttemptState, event: AttemptEvent) -> None:
    """Take the step that ends an attempt; its worker follows, and its rollout if it is the latest.

    Raises:
        LeaseLost: The attempt has ended.
    """
    await move_attempt(tx, attempt, event)
    if attempt.attempt_id == rollout.latest_attempt_id:
        await follow_latest_attempt(tx, rollout, attempt)
    else:
        await workers.follow(tx, attempt.worker_id, attempt.rollout_id, attempt.attempt_id, attempt.status)


async def follow_latest_attempt(tx: Transaction, rollout: RolloutState, attempt: AttemptState) -> None:
    """Let the worker and the rollout follow the latest attempt's status."""
    await workers.follow(tx, attempt.worker_id, attempt.rollout_id, attempt.attempt_id, attempt.status)
    event = event_of_latest_attempt(attempt.status, attempt.sequence_id, rollout.config)
    await move_rollout(tx, rollout, event, is_of_first=attempt.sequence_id == 1)


async def count_up(tx: Transaction, counter: Literal["queue", "finish", "resources"], count: int = 1) -> int:
    """Reserve the next numbers of a counter; returns the first. Its commits happen in the order of its numbers."""
    row: Row | None = await tx.fetch_one(
        "UPDATE counters SET value = value + ? WHERE name = ? RETURNING value", (count, counter)
    )
    assert row is not None
    return row[0] - count + 1


async def _end_live_attempts(tx: Transaction, rollout: RolloutState) -> None:
    for row in await tx.fetch(_LIVE, (rollout.rollout_id,)):
        attempt = AttemptState(*row)
        succeeds = rollout.status == "succeeded" and attempt.attempt_id == rollout.latest_attempt_id
        await move_attempt(tx, attempt, attempt_event_setting("succeeded" if succeeds else "failed"))
        await workers.follow(tx, attempt.worker_id, attempt.rollout_id, attempt.attempt_id, attempt.status)
