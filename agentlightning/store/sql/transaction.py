"""What an operation sees of the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = Sequence[Any]
Value: TypeAlias = str | int | float | bytes | None


@dataclass(slots=True)
class Changes:
    """What a transaction did that somebody may wait for; told to the waiters once it is committed.

    Attributes:
        rollouts: Rollout id and whether it finished (True) or was reopened (False), in order.
        enqueued: How many rollouts entered the queue.
        deadline: The earliest time of the lease clock at which an attempt that was written may be over; None for none.
    """

    rollouts: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    enqueued: int = 0
    deadline: float | None = None


class Transaction(Protocol):
    """One transaction.

    Statements are written in SQLite's dialect, parameters as `?`, with one addition: `FOR UPDATE OF r` (and
    `SKIP LOCKED`) locks the rows of a rollout where several transactions write at a time. Whatever changes a rollout
    or its attempts locks the rollout first. So that no two transactions wait for each other, each takes what it
    changes in one order: its rollouts by their ids, their attempts, the workers, the counters.

    Attributes:
        now: Unix seconds; one time for all that the transaction writes.
        clock: Seconds of the lease clock, which measures deadlines: it neither jumps nor counts the store's downtime.
        changes: What waiters must hear.
    """

    now: float
    clock: float
    changes: Changes

    async def fetch(self, sql: str, params: Sequence[Value] = ()) -> list[Row]:
        """Return all rows."""
        ...

    async def fetch_one(self, sql: str, params: Sequence[Value] = ()) -> Row | None:
        """Return the first row, or None."""
        ...

    async def execute(self, sql: str, params: Sequence[Value] = ()) -> int:
        """Return how many rows changed."""
        ...

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run a statement once for each row."""
        ...
