"""Export: everything but the workers, as one moment sees it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic_core import to_json

from agentlightning._internal.ids import generate_id
from agentlightning.errors import StoreError
from agentlightning.store.redaction import redacted
from agentlightning.store.span_json import values_of
from agentlightning.store.sql.codec import ATTEMPT_FIELDS, ROLLOUT_FIELDS, attempt_of, columns, rollout_of
from agentlightning.store.sql.filters import Conditions
from agentlightning.store.sql.resources import RESOURCES_FIELDS, resources_update_of
from agentlightning.store.sql.span_rows import SPAN, span_of_row
from agentlightning.store.sql.statistics import totals
from agentlightning.store.sql.transaction import Row, Transaction
from agentlightning.store.sql.transfer import FORMAT, Header, Progress, Transferred, open_file

_AT_ONCE: Final = 200
"""Rows in memory."""

_RESOURCES: Final = (
    f"SELECT position, {', '.join(RESOURCES_FIELDS)} FROM resources WHERE position > ? ORDER BY position LIMIT ?"
)
_ROLLOUTS: Final = f"""
    SELECT r.position, r.latest_attempt_id, r.span_counter, r.queue_position, r.finish_position,
        {columns(ROLLOUT_FIELDS, "r")}
    FROM rollouts r WHERE r.position > ? ORDER BY r.position LIMIT ?
"""
_ATTEMPTS: Final = f"SELECT {columns(ATTEMPT_FIELDS, 'a')} FROM attempts a"
_SPANS: Final = f"SELECT position, {SPAN} FROM spans WHERE position > ? ORDER BY position LIMIT ?"


async def export_lines(tx: Transaction, path: Path, *, with_secrets: bool, progress: Progress) -> Transferred:
    """Write the store into a file, which is there when it is whole.

    Raises:
        ConfigurationError: The file cannot be made.
        StoreError: It cannot be written to its end.
    """
    partial = path.with_name(f"{path.name}.{generate_id(8)}.partial")  # another export may have the same path
    try:
        with open_file(partial, "wb", compressed=path.suffix == ".gz") as file:
            done = await _write(tx, file, with_secrets, progress)
        _sync(partial)
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return done


def _sync(path: Path) -> None:
    """See that the disk has a file before it takes another one's place."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


async def _write(tx: Transaction, file: BinaryIO, with_secrets: bool, progress: Progress) -> Transferred:
    header = await _header(tx, with_secrets)
    done = Transferred()
    file.write(_line(header.model_dump()))
    async for rows in _rows(tx, _RESOURCES):
        file.writelines(_resources_line(row[1:], with_secrets) for row in rows)
        done.resources += len(rows)
        progress(done, header.counts)
    async for rows in _rows(tx, _ROLLOUTS):
        attempts = await _attempts_of(tx, [row[5] for row in rows])
        for row in rows:
            file.writelines((_rollout_line(row), *attempts[row[5]]))
        done.rollouts += len(rows)
        done.attempts += sum(map(len, attempts.values()))
        progress(done, header.counts)
    async for rows in _rows(tx, _SPANS):
        file.writelines(_span_line(row[1:]) for row in rows)
        done.spans += len(rows)
        progress(done, header.counts)
    return done


async def _header(tx: Transaction, with_secrets: bool) -> Header:
    counted = await totals(tx)
    kinds = ("resources", "rollouts", "attempts", "spans")
    counts = Transferred(**{kind: counted.get(f"total_{kind}", 0) for kind in kinds})
    counters: dict[str, int] = {name: value for name, value in await tx.fetch("SELECT name, value FROM counters")}
    return Header(
        format=FORMAT, secrets=with_secrets, queue=counters["queue"], finish=counters["finish"], counts=counts
    )


async def _rows(tx: Transaction, sql: str) -> AsyncGenerator[list[Row]]:
    """Yield the rows of a table, some at a time; the first column is their position."""
    cursor = 0
    while rows := await tx.fetch(sql, (cursor, _AT_ONCE)):
        yield rows
        cursor = rows[-1][0]


async def _attempts_of(tx: Transaction, rollout_ids: list[str]) -> dict[str, list[bytes]]:
    chosen = Conditions("and")
    chosen.within("a.rollout_id", rollout_ids)
    lines: dict[str, list[bytes]] = defaultdict(list)
    for row in await tx.fetch(f"{_ATTEMPTS}{chosen.where()} ORDER BY a.sequence_id", chosen.params):
        attempt = attempt_of(row)
        lines[attempt.rollout_id].append(_line({"kind": "attempt", **attempt.__dict__}))
    return lines


def _resources_line(row: Row, with_secrets: bool) -> bytes:
    update = resources_update_of(row)
    resources = update.resources if with_secrets else redacted(update.resources)
    return _line({"kind": "resources", **update.__dict__, "resources": resources})


def _rollout_line(row: Row) -> bytes:
    _, latest_attempt_id, span_counter, queue_position, finish_position, *values = row
    order = {
        "latest_attempt_id": latest_attempt_id,
        "span_counter": span_counter,
        "queue_position": queue_position,
        "finish_position": finish_position,
    }
    return _line({"kind": "rollout", **rollout_of(values).__dict__, **order})


def _span_line(row: Row) -> bytes:
    *body, late = row
    return _line({"kind": "span", "late": bool(late), "span": values_of(span_of_row((*body, False)))})


def _line(values: dict[str, Any]) -> bytes:
    return to_json(values) + b"\n"
