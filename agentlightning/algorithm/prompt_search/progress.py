"""What a search for prompts shows while it runs: a live line on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text


class SearchProgress:
    """A progress bar over rounds, with figures that are read whenever it is drawn.

    Args:
        total: How many rounds there are.
        figures: Says how far the search is.
        console: Where it is shown; standard error by default.
    """

    def __init__(self, total: int, figures: Callable[[], str], console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._shown = console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), _Figures(figures))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console)
        self._task = self._progress.add_task("rounds", total=total)

    def __enter__(self) -> Self:
        if self._shown:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown:
            self._progress.stop()

    def done(self, rounds: int) -> None:
        """Move the bar to so many rounds."""
        self._progress.update(self._task, completed=rounds)


class _Figures(ProgressColumn):
    def __init__(self, figures: Callable[[], str]) -> None:
        super().__init__()
        self._figures = figures

    def render(self, task: Task) -> Text:
        return Text(self._figures())
