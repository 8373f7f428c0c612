"""An evaluation drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentlightning.algorithm.paired import Interval
from agentlightning.evaluation.result import EvaluationResult
from agentlightning.extras import needed_for


def plot_evaluation(result: EvaluationResult, path: Path) -> None:
    """Draw the mean of each set and their difference, each with its interval, as a PNG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    with needed_for("the plot of an evaluation"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left: Any  # matplotlib leaves the types of its keywords unknown
    right: Any
    if result.difference is None:
        left, right = figure.subplots(), None
    else:
        left, right = figure.subplots(1, 2, width_ratios=[2, 1])
        right.axhline(0, color="grey", linewidth=1)
        _draw(right, ["difference"], [result.difference])
        right.set(title=result.verdict)
    _draw(left, [each.name for each in result.sets], [each.reward for each in result.sets])
    left.set(ylabel="mean reward", title=f"{len(result.tasks)} tasks, 95 % intervals")
    figure.savefig(path, dpi=120)  # pyright: ignore[reportUnknownMemberType]  # likewise


def _draw(axes: Any, names: list[str], intervals: list[Interval]) -> None:
    means = [interval.mean for interval in intervals]
    below = [max(0.0, interval.mean - interval.low) for interval in intervals]
    above = [max(0.0, interval.high - interval.mean) for interval in intervals]
    axes.errorbar(range(len(names)), means, yerr=[below, above], fmt="o", capsize=6)
    axes.set_xticks(range(len(names)), names)
    axes.margins(x=0.5)
    axes.grid(axis="y", alpha=0.3)
