"""`agl runs`: the runs on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.trainer.run_folder import RunRecord

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]

_UNKNOWN: Final = "?"

runs = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at runs: what was run, how it ended, and what it reached."
)


@runs.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the runs' folders are.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder, the newest first."""
    from agentlightning.trainer.run_folder import RECORD_FILE

    found = [_read_or_unreadable(path) for path in folder.glob(f"*/{RECORD_FILE}")]
    found.sort(key=lambda run: run["started_at"], reverse=True)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo(f"There are no runs in {folder}/; agl train and agl demo make some.")
        return
    columns = ["run", "state", "algorithm", "started", "seconds", "rollouts", "reward"]
    _print_table(columns, [_row(run) for run in found])


@runs.command("show")
def show_run(run: Run, as_json: AsJson = False) -> None:
    """Show one run: its parts, how it ended, its last metrics and what lies in its folder."""
    shown = _read(run)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    typer.echo(f"{shown['run']}: {shown['state']}" + (f", {shown['error']}" if shown["error"] else ""))
    _print_table(["part", "is"], [[name, _text(value)] for name, value in shown["components"].items()])
    _print_table(["metric", "last value"], [[name, _text(value)] for name, value in shown["metrics"].items()])
    _print_table(["rollouts", "count"], [[name, str(count)] for name, count in shown["rollouts"].items()])
    typer.echo("Files: " + ", ".join(sorted(path.name for path in run.iterdir() if not path.name.startswith("."))))


@runs.command("compare")
def compare_runs(
    chosen: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Two or more runs' folders.")],
    as_json: AsJson = False,
) -> None:
    """Set the last metrics of several runs side by side, with what differs in their parts."""
    if len(chosen) < 2:
        raise ConfigurationError("name at least two runs to compare")
    found = [_read(path) for path in chosen]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    names = [run["run"] for run in found]
    parts = [row for row in _side_by_side(found, "components") if len(set(row[1:])) > 1]
    _print_table(["part", *names], parts)
    _print_table(["metric", *names], _side_by_side(found, "metrics"))


def _side_by_side(found: Sequence[Mapping[str, Any]], field: str) -> list[list[str]]:
    keys = dict.fromkeys(key for run in found for key in run[field])
    return [[key, *(_text(run[field].get(key, _UNKNOWN)) for run in found)] for key in keys]


def _read(folder: Path) -> dict[str, Any]:
    """Return a run's record, with the metrics of its file if it did not come to write them down."""
    from agentlightning.algorithm.context import read_metrics
    from agentlightning.trainer.run_folder import is_held, read_run

    record: RunRecord = read_run(folder)
    killed = record.state == "running" and not is_held(folder)
    metrics = record.metrics or read_metrics(folder)
    return {"run": str(folder)} | record.model_dump() | {"metrics": metrics} | ({"state": "killed"} if killed else {})


def _read_or_unreadable(path: Path) -> dict[str, Any]:
    """Return the record of a run in a list, which shows the others though one cannot be read."""
    from agentlightning.trainer.run_folder import RunRecord

    try:
        return _read(path.parent)
    except (OSError, ValueError) as error:
        typer.echo(f"agl: {error}", err=True)
        unknown = RunRecord(state="failed", started_at=path.stat().st_mtime, error=str(error), pid=0, versions={})
        return {"run": str(path.parent)} | unknown.model_dump() | {"state": "unreadable"}


def _row(run: Mapping[str, Any]) -> list[str]:
    seconds = None if run["ended_at"] is None else run["ended_at"] - run["started_at"]
    return [
        run["run"],
        run["state"],
        str(run["components"].get("algorithm") or _UNKNOWN).rpartition(".")[2],
        datetime.fromtimestamp(run["started_at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        _UNKNOWN if seconds is None else f"{seconds:.0f}",
        str(sum(run["rollouts"].values())) if run["rollouts"] else _UNKNOWN,
        _text(run["metrics"].get("reward", _UNKNOWN)),
    ]


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
