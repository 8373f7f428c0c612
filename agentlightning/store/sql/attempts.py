"""Attempts: claiming rollouts, trying again, and how attempts end."""

from __future__ import annotations

from typing import Any, Final, Literal

from agentlightning._internal.ids import generate_id
from agentlightning.errors import InvalidValue, LeaseLost, NotFound
from agentlightning.store.base import UNSET
from agentlightning.store.sql import workers
from agentlightning.store.sql.checks import check_optional_text, check_optional_time
from agentlightning.store.sql.claims import Claim
from agentlightning.store.sql.codec import (
    ATTEMPT_FIELDS,
    ROLLOUT_FIELDS,
    attempt_of,
    columns,
    encode_mapping,
    rollout_of,
)
from agentlightning.store.sql.filters import Paging, fetch_page, text_key, time_key
from agentlightning.store.sql.leases import new_lease
from agentlightning.store.sql.moves import (
    ATTEMPT_STATE,
    ROLLOUT_STATE,
    AttemptState,
    RolloutState,
    find_attempt,
    follow_latest_attempt,
    move_attempt,
    move_rollout,
    write_attempt,
)
from agentlightning.store.sql.transaction import Row, Transaction, Value
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    PaginatedResult,
    RolloutConfig,
    RolloutStatus,
)
from agentlightning.types.lifecycle import ATTEMPT_STATUSES, LIVE, attempt_event_setting

_SELECT: Final = f"SELECT {columns(ATTEMPT_FIELDS, 'a')} FROM attempts a"
_SELECT_ROLLOUT: Final = f"SELECT {columns(ROLLOUT_FIELDS, 'r')}, r.latest_attempt_id, r.config FROM rollouts r"
_LEASE: Final = ("lease_start", "timeout_at", "silence", "silent_at", "claimed_by", "queued_as")
_INSERT: Final = f"""
    INSERT INTO attempts ({", ".join((*ATTEMPT_FIELDS, *_LEASE))})
    VALUES ({", ".join("?" for _ in (*ATTEMPT_FIELDS, *_LEASE))})
"""
_SORTABLE: Final = {
    "attempt_id": "a.attempt_id",
    "sequence_id": "a.sequence_id",
    "start_time": "a.start_time",
    "end_time": time_key("a.end_time"),
    "status": "a.status",
    "worker_id": text_key("a.worker_id"),
    "last_heartbeat_time": time_key("a.last_heartbeat_time"),
}


def new_attempt_id() -> str:
    """Return an id that no other attempt of a rollout has."""
    return f"at-{generate_id(8)}"


async def create_attempt(
    tx: Transaction,
    rollout_id: str,
    attempt_id: str,
    worker_id: str | None,
    config: RolloutConfig,
    *,
    sequence_id: int = 1,
    queued_as: RolloutStatus | None = None,
) -> Attempt:
    """Write a new attempt, which its rollout names as its latest; its worker starts on it.

    Args:
        tx: The transaction.
        rollout_id: Whose attempt.
        attempt_id: Its id.
        worker_id: Whose work.
        config: The rollout's configuration, which says how long the attempt may live and be silent.
        sequence_id: The attempt's number.
        queued_as: The status of the rollout in the queue that it was taken from, if it was.
    """
    row = (rollout_id, attempt_id, sequence_id, tx.now, None, "preparing", worker_id, None, None)
    await tx.execute(_INSERT, (*row, *new_lease(tx, config), worker_id, queued_as))
    await workers.take(tx, worker_id, rollout_id, attempt_id, dequeued=queued_as is not None)
    return attempt_of(row)


async def start_attempt(tx: Transaction, rollout_id: str, worker_id: str | None) -> Claim:
    """Start another attempt, whatever the rollout's status."""
    row = await tx.fetch_one(f"{_SELECT_ROLLOUT} WHERE r.rollout_id = ? FOR UPDATE OF r", (rollout_id,))
    if row is None:
        raise NotFound(f"Rollout {rollout_id} not found")
    return await _attempt_again(tx, row, "restart", worker_id)


async def dequeue_many_rollouts(tx: Transaction, limit: int, worker_id: str | None) -> list[Claim]:
    """Claim the oldest rollouts of the queue."""
    # Without the hint SQLite would read the whole queue through the index over statuses, and sort it.
    rows = await tx.fetch(
        f"{_SELECT_ROLLOUT} INDEXED BY queue "
        "WHERE r.status IN ('queuing', 'requeuing') ORDER BY r.queue_position LIMIT ? FOR UPDATE OF r SKIP LOCKED",
        (limit,),
    )
    if not rows:
        await workers.found_no_work(tx, worker_id)
    return [await _attempt_again(tx, row, "claim", worker_id) for row in rows]


async def _attempt_again(tx: Transaction, row: Row, event: Literal["claim", "restart"], worker_id: str | None) -> Claim:
    """Give the rollout of a row of `_SELECT_ROLLOUT` its next attempt."""
    *columns_of_rollout, latest_attempt_id, config = row
    before = rollout_of(columns_of_rollout)
    rollout = RolloutState(before.rollout_id, before.status, latest_attempt_id, config)
    attempt_id = new_attempt_id()
    await move_rollout(tx, rollout, event, {"latest_attempt_id": attempt_id})
    former = None if latest_attempt_id is None else await find_attempt(tx, rollout.rollout_id, latest_attempt_id)
    if former and former.status in LIVE:
        await workers.leave(tx, former.worker_id, *_key(former))
    sequence_id = former.sequence_id + 1 if former else 1
    queued_as = before.status if event == "claim" else None
    attempt = await create_attempt(
        tx, rollout.rollout_id, attempt_id, worker_id, before.config, sequence_id=sequence_id, queued_as=queued_as
    )
    values: dict[str, Any] = {**dict(before), "status": rollout.status, "end_time": None, "attempt": attempt}
    return Claim(AttemptedRollout.model_construct(**values), before, former)


def _key(attempt: AttemptState) -> tuple[str, str]:
    return attempt.rollout_id, attempt.attempt_id


async def get_attempt(tx: Transaction, rollout_id: str, attempt_id: str) -> Attempt:
    """Return an attempt that exists."""
    row = await tx.fetch_one(f"{_SELECT} WHERE a.rollout_id = ? AND a.attempt_id = ?", (rollout_id, attempt_id))
    assert row is not None
    return attempt_of(row)


async def query_attempts(tx: Transaction, rollout_id: str, paging: Paging) -> PaginatedResult[Attempt]:
    """Return a page of a rollout's attempts."""
    order = paging.order(_SORTABLE, "a.sequence_id")
    sql = f"{_SELECT} WHERE a.rollout_id = ? ORDER BY {order} LIMIT ? OFFSET ?"
    rows, total = await fetch_page(tx, sql, "attempts WHERE rollout_id = ?", [rollout_id], paging)
    return PaginatedResult[Attempt].model_construct(
        items=[attempt_of(row) for row in rows], limit=paging.limit, offset=paging.offset, total=total
    )


def check_attempt_status(status: AttemptStatus) -> None:
    """Refuse what is no status.

    Raises:
        InvalidValue: With the statuses there are.
    """
    if status is not UNSET and status not in ATTEMPT_STATUSES:
        raise InvalidValue(f"status is {status!r}: use one of {', '.join(ATTEMPT_STATUSES)}")


def encode_changes(
    worker_id: str | None, last_heartbeat_time: float | None, metadata: dict[str, Any] | None
) -> dict[str, Value]:
    """Check and encode the fields that `update_attempt` was given, as column and value.

    Raises:
        InvalidValue: A value that cannot be kept.
    """
    changes: dict[str, Value] = {}
    if worker_id is not UNSET:
        check_optional_text(worker_id, "worker_id")
        changes["worker_id"] = worker_id
    if last_heartbeat_time is not UNSET:
        changes["last_heartbeat_time"] = check_optional_time(last_heartbeat_time, "last_heartbeat_time")
    if metadata is not UNSET:
        changes["metadata"] = encode_mapping(metadata, "metadata")
    return changes


async def update_attempt(
    tx: Transaction, rollout_id: str, attempt_id: str, status: AttemptStatus, changes: dict[str, Value]
) -> Attempt:
    """Change an attempt's fields; a status that is passed for the latest attempt moves its rollout and worker."""
    rollout, attempt = await existing_attempt(tx, rollout_id, attempt_id)
    if changes.get("last_heartbeat_time") is not None and attempt.silence is not None:
        changes = {**changes, "silent_at": tx.clock + attempt.silence}
    await write_attempt(tx, attempt, changes)
    if changes.get("worker_id", attempt.worker_id) != attempt.worker_id:
        await _hand_over(tx, rollout, attempt, changes["worker_id"])
    if status is not UNSET:
        await _set_status(tx, rollout, attempt, status)
    return await get_attempt(tx, *_key(attempt))


async def _hand_over(tx: Transaction, rollout: RolloutState, attempt: AttemptState, worker_id: Any) -> None:
    """The attempt belongs to another worker from now on."""
    await workers.leave(tx, attempt.worker_id, *_key(attempt))
    attempt.worker_id = worker_id
    if attempt.status in LIVE and attempt.attempt_id == rollout.latest_attempt_id:
        await workers.take(tx, worker_id, *_key(attempt), dequeued=False)


async def _set_status(tx: Transaction, rollout: RolloutState, attempt: AttemptState, status: AttemptStatus) -> None:
    before, is_latest = attempt.status, attempt.attempt_id == rollout.latest_attempt_id
    if status != before and before == "unresponsive" and not is_latest:
        raise LeaseLost(f"attempt {attempt.attempt_id} was silent and a newer one took its place")
    await move_attempt(tx, attempt, attempt_event_setting(status))
    # Told twice that it ended, an attempt moves nothing the second time: its rollout may have been restarted since.
    if is_latest and (status != before or status in LIVE):
        await follow_latest_attempt(tx, rollout, attempt)


async def existing_attempt(tx: Transaction, rollout_id: str, attempt_id: str) -> tuple[RolloutState, AttemptState]:
    """Return the states of a rollout and of one of its attempts, which may be "latest".

    Raises:
        NotFound: No such rollout or attempt.
    """
    row = await tx.fetch_one(
        f"""
        SELECT {ROLLOUT_STATE}, {ATTEMPT_STATE} FROM rollouts r LEFT JOIN attempts a
        ON a.rollout_id = r.rollout_id AND a.attempt_id = CASE ? WHEN 'latest' THEN r.latest_attempt_id ELSE ? END
        WHERE r.rollout_id = ? FOR UPDATE OF r
        """,
        (attempt_id, attempt_id, rollout_id),
    )
    if row is None:
        raise NotFound(f"Rollout {rollout_id} not found")
    if row[5] is None:
        raise NotFound(
            f"No attempts found for rollout {rollout_id}"
            if attempt_id == "latest"
            else f"Attempt {attempt_id} not found for rollout {rollout_id}"
        )
    return RolloutState(*row[:5]), AttemptState(*row[5:])
