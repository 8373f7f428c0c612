"""`agl store export` and `agl store import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentlightning._internal.defaults import NAMESPACE
from agentlightning.cli.interrupt import interrupt_exits_at_once
from agentlightning.cli.store_location import Location, Namespace, counted, progress_bar, run_until_done, shown_size
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.store.sql.transfer import Transferred


def export_store(
    location: Location,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; compressed if it ends in .gz.")],
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="Write API keys, too: import needs them where there are some.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Write a store into a file of JSON lines: resources, rollouts, attempts and spans.

    What it writes is one moment of the store, which may be in use meanwhile; the store itself is not changed.

    Example: agl store export agl-store.db monday.jsonl.gz
    """
    with interrupt_exits_at_once():
        from agentlightning.store.opening import open_store

    if file.exists() and not force:
        raise ConfigurationError(f"{file} is there already: name another FILE, or --force")

    async def work() -> Transferred:
        store = open_store(location, namespace=namespace, read_only=True)
        try:
            with progress_bar("Exporting", "lines") as show:
                return await store.export_to(
                    file, with_secrets=with_secrets, progress=lambda done, all_: show(done.lines, all_.lines)
                )
        finally:
            await store.close()

    done = run_until_done(work(), interrupted=f"{file} was not written.")
    typer.echo(f"Exported {_summary(done)} to {file} ({shown_size(file.stat().st_size)}).")
    if done.resources and not with_secrets:
        typer.echo("API keys are redacted; --with-secrets writes them.")


def import_store(
    location: Location,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `agl store export` wrote.")],
    namespace: Namespace = NAMESPACE,
) -> None:
    """Read an export into a store, which is created if it is missing; all of it or nothing.

    Everything keeps its id, its time and its order, and comes behind what the store holds. Rollouts that waited wait
    again. What the store holds already is refused. If nothing is imported, a SQLite file that was missing
    is missing again.

    A file has one writer at a time: what another program writes meanwhile waits, and fails after 30 seconds, so stop it
    before a large import. On PostgreSQL others go on.

    Example: agl store import new.db monday.jsonl.gz
    """
    with interrupt_exits_at_once():
        from agentlightning.store.opening import is_postgres, open_store

    if not file.is_file():
        raise ConfigurationError(f"there is no file {file}")

    new = not is_postgres(location) and not Path(location).exists()

    async def work() -> Transferred:
        store = open_store(location, namespace=namespace, create=True)
        try:
            with progress_bar("Importing", "lines") as show:
                return await store.import_from(file, progress=lambda done, all_: show(done.lines, all_.lines))
        finally:
            await store.close()

    try:
        done = run_until_done(work(), interrupted="Nothing was imported.")
    except BaseException:
        if new:
            Path(location).unlink(missing_ok=True)
        raise
    typer.echo(f"Imported {_summary(done)} from {file}.")


def _summary(done: Transferred) -> str:
    nouns = ("version of resources", "rollout", "attempt", "span")
    *first, last = [
        counted(number, noun)
        for number, noun in zip((done.resources, done.rollouts, done.attempts, done.spans), nouns, strict=True)
    ]
    return f"{', '.join(first)} and {last}"
