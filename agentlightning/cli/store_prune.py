"""`agl store prune`."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agentlightning._internal.defaults import NAMESPACE
from agentlightning.cli.interrupt import interrupt_exits_at_once
from agentlightning.cli.store_location import Location, Namespace, counted, progress_bar, run_until_done, shown_size
from agentlightning.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from agentlightning.store.sql.retention import Pruned

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BUSY_SECONDS: Final = 30.0


def prune_store(
    location: Location,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Rollouts that ended longer ago: 90s, 30m, 12h, 7d, 2w.")
    ] = None,
    keep: Annotated[int | None, typer.Option(min=0, help="Keep the newest so many finished rollouts.")] = None,
    spans_only: Annotated[
        bool, typer.Option("--spans-only", help="Take out their spans; rollouts and attempts stay.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many rollouts it would be.")] = False,
    vacuum: Annotated[
        bool,
        typer.Option("--vacuum", help="SQLite: make the file smaller; takes as much space again meanwhile."),
    ] = False,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Take finished rollouts out of a store, with their attempts and spans; the others are never touched.

    Say which by --older-than, --keep or both: with both, those that are old and not among the newest. The store may be
    in use meanwhile. The space is used again for what comes; --vacuum gives it back to the disk. The rollout that wrote
    the last span stays, for readers of spans go on from there. Resources and workers stay, and what finishes meanwhile.

    Example: agl store prune agl-store.db --older-than 30d --keep 1000
    """
    with interrupt_exits_at_once():
        from agentlightning.store.opening import is_postgres, open_store

    if older_than is None and keep is None:
        raise ConfigurationError("say what may go: --older-than AGE, --keep N, or both")
    if vacuum and is_postgres(location):
        raise ConfigurationError("--vacuum is for SQLite files: PostgreSQL vacuums by itself")
    age = None if older_than is None else _seconds(older_than)

    async def count() -> int:
        store = open_store(location, namespace=namespace, read_only=True)
        try:
            return await store.count_prunable(older_than=age, keep=keep)
        finally:
            await store.close()

    async def work() -> Pruned:
        store = open_store(location, namespace=namespace)
        try:
            with progress_bar("Pruning", "rollouts") as show:
                return await store.prune(
                    older_than=age,
                    keep=keep,
                    only_spans=spans_only,
                    progress=lambda sweep: show(sweep.seen, sweep.found),
                )
        finally:
            await store.close()

    if dry_run:
        found = run_until_done(count(), interrupted="Nothing was changed.")
        typer.echo(f"{counted(found, 'rollout')} would be pruned.")
        return
    pruned = run_until_done(work(), interrupted="What was pruned so far is gone; run it again for the rest.")
    nouns = ((pruned.rollouts, "rollout"), (pruned.attempts, "attempt"), (pruned.spans, "span"))
    typer.echo("Pruned {}, {} and {}.".format(*(counted(number, noun) for number, noun in nouns)))
    if vacuum:
        before, after = _vacuum(Path(location))
        typer.echo(f"The file went from {shown_size(before)} to {shown_size(after)}.")


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", age.strip())
    if match is None:
        raise ConfigurationError(f"--older-than is {age!r}: write a number and s, m, h, d or w, such as 30d")
    return float(match[1]) * _SECONDS[match[2]]


def _vacuum(path: Path) -> tuple[int, int]:
    """Rewrite a file without its free pages; returns its sizes before and after."""
    before = path.stat().st_size
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise StoreError(f"cannot vacuum {path} ({error}): close what uses it, or make space on the disk") from error
    finally:
        connection.close()
    return before, path.stat().st_size
