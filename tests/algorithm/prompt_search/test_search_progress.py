from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from agentlightning.algorithm.prompt_search import SearchProgress


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
def test_a_terminal_shows_rounds_and_figures_and_a_file_stays_empty(terminal: bool) -> None:
    shown = StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120)
    with SearchProgress(3, lambda: "best 0.5", console) as progress:
        progress.done(2)
    assert ("2/3" in shown.getvalue() and "best 0.5" in shown.getvalue()) is terminal
    assert terminal or shown.getvalue() == ""
