"""What the tools of `agl store` share: where the store is, how work shows its progress, and how Ctrl+C ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from agentlightning.cli.interrupt import INTERRUPTED, ignore_interrupts

T = TypeVar("T")

Location: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="LOCATION", help="The store's SQLite file, or postgresql://user:password@host/database."),
]
Namespace: TypeAlias = Annotated[str, typer.Option(help="PostgreSQL: which of the stores in the database.")]

Show: TypeAlias = Callable[[int, int], None]
"""Takes how much is done, and how much there is."""


def run_until_done(work: Coroutine[Any, Any, T], *, interrupted: str) -> T:
    """Run a coroutine; on Ctrl+C it is cancelled, and the command ends saying what that means."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        ignore_interrupts()
        typer.echo(f"Interrupted. {interrupted}", err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def progress_bar(what: str, unit: str) -> Generator[Show]:
    """Show a bar on a terminal while the block runs; any thread may move it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def counted(number: int, noun: str) -> str:
    """Return `1 span`, `2 spans`, `1,000 spans`; a noun of several words has its s at the first."""
    head, _, rest = noun.partition(" ")
    return f"{number:,} {head}{'' if number == 1 else 's'}{' ' if rest else ''}{rest}"


def shown_size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
