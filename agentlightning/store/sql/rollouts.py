"""Rollouts: creating, finding and changing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from agentlightning._internal.ids import generate_id
from agentlightning.errors import InvalidValue, NotFound
from agentlightning.store.base import UNSET
from agentlightning.store.sql import attempts
from agentlightning.store.sql.checks import check_optional_text
from agentlightning.store.sql.claims import Claim
from agentlightning.store.sql.codec import (
    ATTEMPT_FIELDS,
    ROLLOUT_FIELDS,
    columns,
    config_of,
    encode_input,
    encode_mapping,
    rollout_of,
)
from agentlightning.store.sql.filters import Conditions, Paging, fetch_page, text_key, time_key
from agentlightning.store.sql.leases import set_deadlines
from agentlightning.store.sql.moves import RolloutState, count_up, find_rollout, move_rollout, write_rollout
from agentlightning.store.sql.resources import latest_resources_id
from agentlightning.store.sql.transaction import Row, Transaction, Value
from agentlightning.types import (
    AttemptedRollout,
    PaginatedResult,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    TaskInput,
)
from agentlightning.types.lifecycle import FINISHED, ROLLOUT_STATUSES, rollout_event_setting

_SELECT: Final = f"SELECT {columns(ROLLOUT_FIELDS, 'r')} FROM rollouts r"
_SELECT_WITH_ATTEMPT: Final = f"""
    SELECT {columns(ROLLOUT_FIELDS, "r")}, {columns(ATTEMPT_FIELDS, "a")}
    FROM rollouts r LEFT JOIN attempts a ON a.rollout_id = r.rollout_id AND a.attempt_id = r.latest_attempt_id
"""
_INSERT: Final = f"""
    INSERT INTO rollouts ({", ".join(ROLLOUT_FIELDS)}, queue_position, latest_attempt_id)
    VALUES ({", ".join("?" for _ in ROLLOUT_FIELDS)}, ?, ?)
"""
_DEFAULT_CONFIG: Final = RolloutConfig().model_dump_json().encode()
_SORTABLE: Final = {
    "rollout_id": "r.rollout_id",
    "start_time": "r.start_time",
    "end_time": time_key("r.end_time"),
    "mode": text_key("r.mode"),
    "resources_id": text_key("r.resources_id"),
    "status": "r.status",
}


@dataclass(slots=True, frozen=True)
class Task:
    """A task whose values are known to be storable; JSON columns are encoded."""

    input: bytes
    mode: RolloutMode | None
    resources_id: str | None
    config: bytes
    metadata: bytes | None


def encode_task(
    input: TaskInput,
    mode: RolloutMode | None,
    resources_id: str | None,
    config: RolloutConfig | None,
    metadata: dict[str, Any] | None,
) -> Task:
    """Check and encode what a caller gives for a new rollout.

    Raises:
        InvalidValue: A value that cannot be kept.
    """
    check_optional_text(resources_id, "resources_id")
    return Task(
        input=encode_input(input, "input"),
        mode=_checked_mode(mode),
        resources_id=resources_id,
        config=_DEFAULT_CONFIG if config is None else _encode_config(config),
        metadata=encode_mapping(metadata or {}, "metadata"),
    )


async def enqueue_many_rollouts(tx: Transaction, tasks: Sequence[Task]) -> list[Rollout]:
    """Append rollouts to the queue, in order."""
    latest = await latest_resources_id(tx)
    first = await count_up(tx, "queue", len(tasks))
    rows = [_new_row(task, latest, "queuing", tx.now) for task in tasks]
    await tx.execute_many(_INSERT, [(*row, first + i, None) for i, row in enumerate(rows)])
    tx.changes.enqueued += len(tasks)
    return [rollout_of(row) for row in rows]


async def start_rollout(tx: Transaction, task: Task, worker_id: str | None) -> Claim:
    """Create a rollout and its first attempt."""
    row = _new_row(task, await latest_resources_id(tx), "preparing", tx.now)
    attempt_id = attempts.new_attempt_id()
    await tx.execute(_INSERT, (*row, 0, attempt_id))
    attempt = await attempts.create_attempt(tx, row[0], attempt_id, worker_id, config_of(task.config))
    return Claim(AttemptedRollout.model_construct(attempt=attempt, **dict(rollout_of(row))))


async def query_rollouts(
    tx: Transaction, conditions: Conditions, paging: Paging, build: Callable[[Row], Any]
) -> PaginatedResult[Rollout | AttemptedRollout]:
    """Return a page of rollouts with their latest attempts; `build` makes one of its row."""
    ties = "r.position" if paging.sort_by is None else f"r.position {paging.sort_order.upper()}"
    order = paging.order(_SORTABLE, ties)
    matches = f"rollouts r{conditions.where()}"
    # The page is chosen by an index alone; rows and attempts are read for it only.
    page = f"SELECT r.position FROM {matches} ORDER BY {order} LIMIT ? OFFSET ?"
    sql = f"{_SELECT_WITH_ATTEMPT} WHERE r.position IN ({page}) ORDER BY {order}"
    counted, count = matches, "COUNT(*)"
    if conditions.columns <= {"r.status"}:
        counted, count = f"status_counts r{conditions.where()}", "CAST(COALESCE(SUM(r.rollouts), 0) AS INTEGER)"
    rows, total = await fetch_page(tx, sql, counted, conditions.params, paging, count=count)
    return PaginatedResult[Rollout | AttemptedRollout].model_construct(
        items=[build(row) for row in rows], limit=paging.limit, offset=paging.offset, total=total
    )


async def finished_among(tx: Transaction, rollout_ids: Sequence[str]) -> tuple[dict[str, Row], set[str]]:
    """Return the rows of the finished ones among the rollouts, for `rollout_of`, and the ids of all that exist."""
    named = Conditions("and")
    named.within("r.rollout_id", rollout_ids)
    states = await tx.fetch(f"SELECT r.rollout_id, r.status FROM rollouts r WHERE {named.sql()}", named.params)
    finished = Conditions("and")
    finished.within("r.rollout_id", [rollout_id for rollout_id, status in states if status in FINISHED])
    rows = await tx.fetch(f"{_SELECT} WHERE {finished.sql()}", finished.params)
    return {row[0]: row for row in rows}, {rollout_id for rollout_id, _ in states}


def encode_changes(
    input: TaskInput, mode: RolloutMode | None, resources_id: str | None, config: RolloutConfig, metadata: Any
) -> dict[str, Value]:
    """Check and encode the fields that `update_rollout` was given, as column and value.

    Raises:
        InvalidValue: A value that cannot be kept.
    """
    changes: dict[str, Value] = {}
    if input is not UNSET:
        changes["input"] = encode_input(input, "input")
    if mode is not UNSET:
        changes["mode"] = _checked_mode(mode)
    if resources_id is not UNSET:
        check_optional_text(resources_id, "resources_id")
        changes["resources_id"] = resources_id
    if config is not UNSET:
        changes["config"] = _encode_config(config)
    if metadata is not UNSET:
        changes["metadata"] = encode_mapping(metadata, "metadata")
    return changes


def check_rollout_status(status: RolloutStatus) -> None:
    """Refuse what is no status.

    Raises:
        InvalidValue: With the statuses there are.
    """
    if status is not UNSET and status not in ROLLOUT_STATUSES:
        raise InvalidValue(f"status is {status!r}: use one of {', '.join(ROLLOUT_STATUSES)}")


async def update_rollout(tx: Transaction, rollout_id: str, status: RolloutStatus, changes: dict[str, Value]) -> Rollout:
    """Change a rollout's fields; a status given here always wins."""
    rollout = await existing_rollout(tx, rollout_id)
    await write_rollout(tx, rollout_id, changes)
    if status is not UNSET:
        await move_rollout(tx, rollout, rollout_event_setting(status))
    row = await tx.fetch_one(f"{_SELECT} WHERE r.rollout_id = ?", (rollout_id,))
    assert row is not None
    updated = rollout_of(row)
    if "config" in changes:
        await set_deadlines(tx, rollout_id, updated.config)
    return updated


async def cancel_rollouts(tx: Transaction, rollout_ids: Sequence[str]) -> list[Rollout]:
    """Cancel the rollouts that have not finished; returns all of them."""
    cancelled: list[Rollout] = []
    for rollout_id in rollout_ids:
        rollout = await existing_rollout(tx, rollout_id)
        status = UNSET if rollout.status in FINISHED else "cancelled"
        cancelled.append(await update_rollout(tx, rollout_id, status, {}))
    return cancelled


async def existing_rollout(tx: Transaction, rollout_id: str) -> RolloutState:
    """Return a rollout's state.

    Raises:
        NotFound: No such rollout.
    """
    rollout = await find_rollout(tx, rollout_id)
    if rollout is None:
        raise NotFound(f"Item {rollout_id!r} does not exist among the rollouts")
    return rollout


def _new_row(task: Task, latest_resources_id: str | None, status: RolloutStatus, now: float) -> tuple[Any, ...]:
    """Return the columns of `ROLLOUT_FIELDS`."""
    return (
        f"ro-{generate_id(12)}",
        task.input,
        now,
        None,
        task.mode,
        task.resources_id or latest_resources_id,
        status,
        task.config,
        task.metadata,
    )


def _encode_config(config: RolloutConfig) -> bytes:
    if not isinstance(config, RolloutConfig):  # pyright: ignore[reportUnnecessaryIsInstance]  # may be None at run time
        raise InvalidValue(f"config is a {type(config).__name__}: pass a RolloutConfig, or leave it out")
    return config.model_dump_json().encode()


def _checked_mode(mode: RolloutMode | None) -> RolloutMode | None:
    if mode not in (None, *get_args(RolloutMode)):
        raise InvalidValue(f"mode is {mode!r}: use one of {', '.join(get_args(RolloutMode))}, or None")
    return mode
