"""`agl store inspect`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentlightning._internal.defaults import NAMESPACE
from agentlightning.cli.interrupt import interrupt_exits_at_once
from agentlightning.cli.store_location import Location, Namespace, run_until_done, shown_size

if TYPE_CHECKING:
    from rich.table import Table

    from agentlightning.store import LightningStore
    from agentlightning.store.base import LightningStoreStatistics
    from agentlightning.types import PaginatedResult, ResourcesUpdate, Rollout, Worker

_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@dataclass(slots=True, frozen=True)
class _Findings:
    totals: LightningStoreStatistics
    by_status: dict[str, int]
    oldest_waiting: Rollout | None
    last_finished: Rollout | None
    resources: PaginatedResult[ResourcesUpdate]
    workers: PaginatedResult[Worker]


def inspect_store(
    location: Location,
    rows: Annotated[int, typer.Option(min=1, help="The most resources, and the most workers, to list.")] = 10,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Show what a store holds: rollouts by status, what waits longest, resources, workers and size.

    A file is left as it is, and may be in use meanwhile.

    Example: agl store inspect agl-store.db
    """
    with interrupt_exits_at_once():
        from rich.console import Console

        from agentlightning.store.opening import is_postgres, open_store, shown_location
        from agentlightning.store.schema import VERSION

    async def work() -> _Findings:
        store = open_store(location, namespace=namespace, read_only=True)
        try:
            return await _look(store, rows)
        finally:
            await store.close()

    found = run_until_done(work(), interrupted="The store was only read.")
    place = f"namespace {namespace}" if is_postgres(location) else shown_size(_size(Path(location)))
    console = Console()
    console.print(f"{shown_location(location)}: {place}, schema version {VERSION}", highlight=False, markup=False)
    for table in (_rollouts(found), _resources(found.resources), _workers(found.workers)):
        console.print()
        console.print(table)


async def _look(store: LightningStore, rows: int) -> _Findings:
    from agentlightning.types.lifecycle import FINISHED, QUEUED, ROLLOUT_STATUSES

    by_status = {status: (await store.query_rollouts(status_in=[status], limit=0)).total for status in ROLLOUT_STATUSES}
    waiting = await store.query_rollouts(status_in=QUEUED, sort_by="start_time", limit=1)
    finished = await store.query_rollouts(status_in=FINISHED, sort_by="end_time", sort_order="desc", limit=1)
    return _Findings(
        totals=await store.statistics(),
        by_status=by_status,
        oldest_waiting=waiting[0] if waiting else None,
        last_finished=finished[0] if finished else None,
        resources=await store.query_resources(sort_by="update_time", sort_order="desc", limit=rows),
        workers=await store.query_workers(sort_by="last_heartbeat_time", sort_order="desc", limit=rows),
    )


def _rollouts(found: _Findings) -> Table:
    table = _table("Rollouts", "", "number", "", right=(1,))
    for status, number in found.by_status.items():
        if number:
            table.add_row(status, f"{number:,}", "")
    table.add_section()
    for kind in ("rollouts", "attempts", "spans"):
        table.add_row(f"{kind} in all", f"{found.totals.get(f'total_{kind}', 0):,}", "")
    if found.oldest_waiting is not None:
        table.add_section()
        table.add_row("oldest in the queue", _ago(found.oldest_waiting.start_time), found.oldest_waiting.rollout_id)
    if found.last_finished is not None:
        table.add_row("finished last", _ago(found.last_finished.end_time), found.last_finished.rollout_id)
    return table


def _resources(page: PaginatedResult[ResourcesUpdate]) -> Table:
    table = _table(f"Resources{_of(page)}, latest first", "id", "version", "written", "names", right=(1,))
    for update in page:
        table.add_row(
            update.resources_id, str(update.version), _ago(update.update_time), ", ".join(sorted(update.resources))
        )
    return table


def _workers(page: PaginatedResult[Worker]) -> Table:
    table = _table(f"Workers{_of(page)}", "id", "status", "heartbeat", "rollout")
    for worker in page:
        table.add_row(
            worker.worker_id, worker.status, _ago(worker.last_heartbeat_time), worker.current_rollout_id or ""
        )
    return table


def _table(title: str, *headings: str, right: Sequence[int] = ()) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in right else "left", overflow="fold")
    return table


def _of(page: PaginatedResult[Any]) -> str:
    return f" ({len(page)} of {page.total:,})" if len(page) < page.total else f" ({page.total:,})"


def _ago(moment: float | None) -> str:
    if moment is None:
        return "never"
    seconds = max(0.0, time.time() - moment)
    unit, length = next(((unit, length) for unit, length in _UNITS if seconds >= length), ("s", 1))
    return f"{seconds / length:.0f} {unit} ago"


def _size(path: Path) -> int:
    """What a file takes, with its write-ahead log."""
    return sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())
