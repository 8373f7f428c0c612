"""Workers: who runs what.

A worker's state follows its current attempt only: the one it took last, and when that ends another one that it holds.
It holds the live attempts that its rollouts, not finished, have as their latest.
"""

from __future__ import annotations

from typing import Any, Final

from agentlightning.errors import InvalidValue
from agentlightning.store.sql.codec import WORKER_FIELDS, columns, decode, encode_mapping, worker_of
from agentlightning.store.sql.filters import Conditions, Paging, fetch_page, text_key, time_key
from agentlightning.store.sql.leases import RENEW
from agentlightning.store.sql.transaction import Transaction
from agentlightning.types import AttemptStatus, PaginatedResult, Worker, WorkerStatus
from agentlightning.types.lifecycle import LIVE

_SELECT: Final = f"SELECT {columns(WORKER_FIELDS, 'w')} FROM workers w"
_SORTABLE: Final = {
    "worker_id": "worker_id",
    "status": "status",
    "last_heartbeat_time": time_key("last_heartbeat_time"),
    "last_dequeue_time": time_key("last_dequeue_time"),
    "last_busy_time": time_key("last_busy_time"),
    "last_idle_time": time_key("last_idle_time"),
    "current_rollout_id": text_key("current_rollout_id"),
    "current_attempt_id": text_key("current_attempt_id"),
}
HELD: Final = """
    attempts a JOIN rollouts r ON r.rollout_id = a.rollout_id AND r.latest_attempt_id = a.attempt_id
    WHERE a.worker_id = ? AND a.status IN ('preparing', 'running')
        AND r.status NOT IN ('failed', 'succeeded', 'cancelled')
"""
"""The attempts that a worker holds, with their rollouts."""
_TAKE: Final = """
    INSERT INTO workers (worker_id, status, last_busy_time, last_dequeue_time, current_rollout_id, current_attempt_id)
    VALUES (?, 'busy', ?, ?, ?, ?)
    ON CONFLICT (worker_id) DO UPDATE SET
        status = 'busy',
        last_busy_time = excluded.last_busy_time,
        last_dequeue_time = COALESCE(excluded.last_dequeue_time, workers.last_dequeue_time),
        current_rollout_id = excluded.current_rollout_id,
        current_attempt_id = excluded.current_attempt_id
"""
_RESUME: Final = f"""{_TAKE}
    WHERE workers.current_attempt_id IS NULL
        OR (workers.current_rollout_id = excluded.current_rollout_id
            AND workers.current_attempt_id = excluded.current_attempt_id)
"""
_LEAVE: Final = f"""
    UPDATE workers SET (current_rollout_id, current_attempt_id, status, last_idle_time) = (
        SELECT
            held.rollout_id,
            held.attempt_id,
            CASE WHEN held.attempt_id IS NULL THEN ? ELSE 'busy' END,
            CASE WHEN held.attempt_id IS NULL THEN ? ELSE workers.last_idle_time END
        FROM (SELECT 1 AS always) one LEFT JOIN (
            SELECT a.rollout_id, a.attempt_id FROM {HELD} AND NOT (a.rollout_id = ? AND a.attempt_id = ?)
            ORDER BY r.position DESC LIMIT 1) held ON TRUE)
    WHERE worker_id = ? AND current_rollout_id = ? AND current_attempt_id = ?
"""


def encode_stats(stats: dict[str, Any]) -> bytes:
    """Check and encode a heartbeat's statistics.

    Raises:
        InvalidValue: They are None, or hold what JSON cannot.
    """
    body = encode_mapping(stats, "heartbeat_stats")
    if body is None:
        raise InvalidValue("heartbeat_stats is None: pass a dict, or leave it out to keep the former ones")
    return body


async def take(tx: Transaction, worker_id: str | None, rollout_id: str, attempt_id: str, *, dequeued: bool) -> None:
    """The worker starts on an attempt, which becomes its current one."""
    if worker_id:
        await tx.execute(_TAKE, (worker_id, tx.now, tx.now if dequeued else None, rollout_id, attempt_id))


async def follow(
    tx: Transaction, worker_id: str | None, rollout_id: str, attempt_id: str, status: AttemptStatus
) -> None:
    """An attempt of the worker got a status; only its current attempt moves it."""
    if not worker_id:
        return
    if status in LIVE:
        await tx.execute(_RESUME, (worker_id, tx.now, None, rollout_id, attempt_id))
    else:
        without_work = "idle" if status in ("succeeded", "failed") else "unknown"
        await _leave(tx, worker_id, rollout_id, attempt_id, without_work)


async def leave(tx: Transaction, worker_id: str | None, rollout_id: str, attempt_id: str) -> None:
    """The worker holds an attempt no more; if it was its current one, it goes on with another, or is idle."""
    if worker_id:
        await _leave(tx, worker_id, rollout_id, attempt_id, "idle")


async def _leave(tx: Transaction, worker_id: str, rollout_id: str, attempt_id: str, without_work: WorkerStatus) -> None:
    key = rollout_id, attempt_id
    await tx.execute(_LEAVE, (without_work, tx.now, worker_id, *key, worker_id, *key))


async def found_no_work(tx: Transaction, worker_id: str | None) -> None:
    """The worker asked an empty queue; it is idle unless it holds an attempt."""
    if not worker_id:
        return
    await tx.execute(
        """
        INSERT INTO workers (worker_id, status, last_dequeue_time, last_idle_time) VALUES (?, 'idle', ?, ?)
        ON CONFLICT (worker_id) DO UPDATE SET last_dequeue_time = excluded.last_dequeue_time
        """,
        (worker_id, tx.now, tx.now),
    )
    await tx.execute(
        f"""
        UPDATE workers SET status = 'idle', last_idle_time = ?, current_rollout_id = NULL, current_attempt_id = NULL
        WHERE worker_id = ? AND status <> 'idle' AND NOT EXISTS (SELECT 1 FROM {HELD})
        """,
        (tx.now, worker_id, worker_id),
    )


async def record_heartbeat(tx: Transaction, worker_id: str, stats: bytes | None) -> None:
    """The worker is alive; stats of None keep the former ones."""
    await tx.execute(
        """
        INSERT INTO workers (worker_id, heartbeat_stats, last_heartbeat_time) VALUES (?, ?, ?)
        ON CONFLICT (worker_id) DO UPDATE SET
            heartbeat_stats = COALESCE(excluded.heartbeat_stats, workers.heartbeat_stats),
            last_heartbeat_time = excluded.last_heartbeat_time
        """,
        (worker_id, stats, tx.now),
    )


async def last_stats(tx: Transaction, worker_id: str) -> dict[str, Any] | None:
    """Return what the worker's last heartbeat told; the next one comes after this transaction."""
    row = await tx.fetch_one(
        "SELECT w.heartbeat_stats FROM workers w WHERE w.worker_id = ? FOR UPDATE OF w", (worker_id,)
    )
    return decode(row[0]) if row else None


async def lock_work(tx: Transaction, worker_id: str) -> None:
    """Lock all rollouts that the worker runs, before anything is changed of any of them."""
    await tx.fetch(
        """
        SELECT r.rollout_id FROM rollouts r WHERE r.rollout_id IN (
            SELECT a.rollout_id FROM attempts a WHERE a.worker_id = ? AND a.status IN ('preparing', 'running'))
        ORDER BY r.rollout_id FOR UPDATE OF r
        """,
        (worker_id,),
    )


async def heartbeat(tx: Transaction, worker_id: str, stats: bytes | None) -> Worker:
    """The worker is alive, and so are its attempts; stats of None keep the former ones."""
    await lock_work(tx, worker_id)
    await tx.execute(
        f"""
        UPDATE attempts SET last_heartbeat_time = ?, {RENEW}
        WHERE worker_id = ? AND status IN ('preparing', 'running')
        """,
        (tx.now, tx.clock, worker_id),
    )
    await record_heartbeat(tx, worker_id, stats)
    worker = await get_worker(tx, worker_id)
    assert worker is not None
    return worker


async def forget(tx: Transaction, worker_id: str) -> None:
    """The worker is gone; nobody knows whether it comes back."""
    await tx.execute(
        "UPDATE workers SET status = 'unknown', current_rollout_id = NULL, current_attempt_id = NULL "
        "WHERE worker_id = ?",
        (worker_id,),
    )


async def get_worker(tx: Transaction, worker_id: str) -> Worker | None:
    """Return a worker, or None."""
    row = await tx.fetch_one(f"{_SELECT} WHERE w.worker_id = ?", (worker_id,))
    return worker_of(row) if row else None


async def query_workers(tx: Transaction, conditions: Conditions, paging: Paging) -> PaginatedResult[Worker]:
    """Return a page of workers."""
    order = paging.order(_SORTABLE, "position")
    sql = f"{_SELECT}{conditions.where()} ORDER BY {order} LIMIT ? OFFSET ?"
    rows, total = await fetch_page(tx, sql, f"workers w{conditions.where()}", conditions.params, paging)
    return PaginatedResult[Worker].model_construct(
        items=[worker_of(row) for row in rows], limit=paging.limit, offset=paging.offset, total=total
    )
