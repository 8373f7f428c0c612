"""What the demo shows while it runs: a live line on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from statistics import fmean
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_WINDOW = 5
"""Steps in the moving mean."""


class Display(Protocol):
    """Shows the records of a run's metrics as they come."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def show(self, record: Mapping[str, Any]) -> None:
        """Show one record."""
        ...


def make_display(console: Console, steps: int) -> Display:
    """Return the display that fits the console."""
    return LiveDisplay(console, steps) if console.is_terminal else PlainDisplay(console)


class MovingMean:
    """Mean of the latest rewards."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_WINDOW)

    def add(self, value: float) -> float:
        """Take in a value and return the mean."""
        self._latest.append(value)
        return fmean(self._latest)


class PlainDisplay:
    """One line a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._mean = MovingMean()
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def show(self, record: Mapping[str, Any]) -> None:
        """Print one record."""
        if record["kind"] == "evaluation":
            self._console.print(describe_evaluation(record), highlight=False, soft_wrap=True)
            return
        step, steps = record["step"], record["steps"]
        left = (time.monotonic() - self._started) / step * (steps - step)
        self._console.print(
            f"step {step}/{steps}  {describe_step(record, self._mean.add(record['reward']))}  {left:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )


class LiveDisplay:
    """A progress bar that stays in place."""

    def __init__(self, console: Console, steps: int) -> None:
        self._mean = MovingMean()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("training", total=steps, figures="evaluating the untrained policy…")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, record: Mapping[str, Any]) -> None:
        """Move the bar, or print an evaluation above it."""
        if record["kind"] == "evaluation":
            self._progress.console.print(describe_evaluation(record), highlight=False)
            return
        figures = describe_step(record, self._mean.add(record["reward"]))
        self._progress.update(self._task, completed=record["step"], figures=figures)


def describe_step(record: Mapping[str, Any], mean: float) -> str:
    """Say how a step went."""
    return (
        f"reward {record['reward']:.2f} (mean of {_WINDOW}: {mean:.2f})  turns {record['turns']:.1f}  "
        f"{record['tokens_per_second']:.0f} tokens/s  {record['rollouts_per_second']:.0f} rollouts/s"
    )


def describe_evaluation(record: Mapping[str, Any]) -> str:
    """Say how an evaluation went."""
    how = "greedily" if record["temperature"] == 0 else f"at temperature {record['temperature']:g}"
    when = "untrained" if record["version"] == 0 else f"after {record['version']} updates"
    return (
        f"test set, {when}, sampled {how}: {record['reward']:.1%} of {record['rollouts']} tasks solved, "
        f"{record['turns']:.1f} turns a task ({record['seconds']:.1f} s)"
    )
