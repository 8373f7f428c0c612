"""Leases: how long an attempt may live and be silent, in the columns that hold it.

Times are those of the lease clock. What is written here is reported to `Changes.deadline`, unless it only puts off what
was reported before.
"""

from __future__ import annotations

from typing import Final

from agentlightning.store.sql.transaction import Transaction
from agentlightning.types import RolloutConfig

RENEW: Final = "silent_at = ? + silence"
"""The assignment that gives an attempt its full silence again; its parameter is the lease clock."""

_SET: Final = """
    UPDATE attempts SET timeout_at = lease_start + ?, silence = ?, silent_at = ?
    WHERE rollout_id = ? AND status IN ('preparing', 'running', 'unresponsive')
    RETURNING timeout_at, silent_at
"""
_RESUME: Final = f"""
    UPDATE attempts SET {RENEW} WHERE rollout_id = ? AND attempt_id = ? RETURNING timeout_at, silent_at
"""
_RESTART: Final = f"""
    UPDATE attempts SET lease_start = ?, timeout_at = ? + (timeout_at - lease_start), {RENEW}
    WHERE status IN ('preparing', 'running', 'unresponsive')
"""
_PUT_OFF: Final = (
    "UPDATE attempts SET lease_start = lease_start + ?, timeout_at = timeout_at + ? "
    "WHERE timeout_at IS NOT NULL AND status IN ('preparing', 'running')",
    "UPDATE attempts SET silent_at = silent_at + ? WHERE silent_at IS NOT NULL AND status IN ('preparing', 'running')",
)


def new_lease(tx: Transaction, config: RolloutConfig) -> tuple[float, float | None, float | None, float | None]:
    """Return what a lease begins with: `lease_start`, `timeout_at`, `silence`, `silent_at`."""
    lifetime, silence = config.timeout_seconds, config.unresponsive_seconds
    timeout_at = None if lifetime is None else tx.clock + lifetime
    silent_at = None if silence is None else tx.clock + silence
    report_deadlines(tx, timeout_at, silent_at)
    return tx.clock, timeout_at, silence, silent_at


async def set_deadlines(tx: Transaction, rollout_id: str, config: RolloutConfig) -> None:
    """Give a rollout's attempts the deadlines of its new configuration; silence counts from now."""
    silence = config.unresponsive_seconds
    silent_at = None if silence is None else tx.clock + silence
    rows = await tx.fetch(_SET, (config.timeout_seconds, silence, silent_at, rollout_id))
    report_deadlines(tx, *(time for row in rows for time in row))


async def resume_lease(tx: Transaction, rollout_id: str, attempt_id: str) -> None:
    """An attempt lives again: it may be silent as long as a new one, but lives no longer than it would have."""
    for row in await tx.fetch(_RESUME, (tx.clock, rollout_id, attempt_id)):
        report_deadlines(tx, *row)


async def restart_leases(tx: Transaction) -> None:
    """Give every lease its full length from now on: the time that a store was away does not count."""
    await tx.execute(_RESTART, (tx.clock, tx.clock, tx.clock))


async def put_off_deadlines(tx: Transaction, seconds: float) -> None:
    """Give every live attempt so much more time, for the store was away as long."""
    for sql in _PUT_OFF:
        await tx.execute(sql, (seconds,) * sql.count("?"))


def report_deadlines(tx: Transaction, *times: float | None) -> None:
    """Tell whoever watches the clock of new deadlines."""
    for time in times:
        if time is not None and (tx.changes.deadline is None or time < tx.changes.deadline):
            tx.changes.deadline = time
