"""What the demo leaves behind: a summary and the curve of the reward."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from agentlightning.algorithm.paired import paired_difference
from agentlightning.algorithm.policy_evaluation import Evaluation

_WINDOW = 5


def summarize(evaluations: Sequence[Evaluation], *, steps: int, seed: int, seconds: float) -> dict[str, Any]:
    """Compare the evaluations before and after training, at temperature 1 and greedily.

    Args:
        evaluations: Sampled and greedy, before and after, in this order.
        steps: Updates made.
        seed: The run's seed.
        seconds: What the whole run took.
    """
    before, before_greedy, after, after_greedy = evaluations
    difference = paired_difference(before.rewards, after.rewards)
    return {
        "verdict": difference.verdict,
        "difference": {"mean": difference.mean, "low": difference.low, "high": difference.high},
        "before": _figures(before, before_greedy),
        "after": _figures(after, after_greedy),
        "test_tasks": len(before.rewards),
        "steps": steps,
        "seed": seed,
        "seconds": seconds,
    }


def _figures(sampled: Evaluation, greedy: Evaluation) -> dict[str, Any]:
    return {
        "success": sampled.mean_reward,
        "greedy_success": greedy.mean_reward,
        "turns": sampled.turns,
        "tokens": sampled.tokens,
        "failed": sampled.failed,
        "seconds": sampled.seconds,
    }


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write the summary as JSON."""
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def describe_summary(summary: dict[str, Any]) -> str:
    """Say in a few lines what training did to the agent."""
    before, after, difference = summary["before"], summary["after"], summary["difference"]
    return "\n".join(
        [
            f"{'':22}{'before':>10}{'after':>10}",
            f"{'tasks solved':22}{before['success']:>10.1%}{after['success']:>10.1%}",
            f"{'tasks solved, greedy':22}{before['greedy_success']:>10.1%}{after['greedy_success']:>10.1%}",
            f"{'turns per task':22}{before['turns']:>10.2f}{after['turns']:>10.2f}",
            f"{'tokens sampled':22}{before['tokens']:>10}{after['tokens']:>10}",
            f"{'seconds':22}{before['seconds']:>10.1f}{after['seconds']:>10.1f}",
            f"difference {difference['mean']:+.1%}, 95 % interval {difference['low']:+.1%} to "
            f"{difference['high']:+.1%}, paired over {summary['test_tasks']} tasks: {summary['verdict']}",
        ]
    )


def read_rewards(metrics: Path) -> list[float]:
    """Read the reward of each step from a metrics file."""
    with metrics.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [record["reward"] for record in records if record["kind"] == "step"]


def plot_rewards(rewards: Sequence[float], path: Path) -> None:
    """Draw the reward of each step, and its moving mean, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()  # matplotlib leaves the types of its keywords unknown
    steps = range(1, len(rewards) + 1)
    means = [fmean(rewards[max(0, step - _WINDOW) : step]) for step in steps]
    axes.plot(steps, rewards, "o", markersize=3, alpha=0.4, label="reward of the step")
    axes.plot(steps, means, linewidth=2, label=f"mean of {_WINDOW} steps")
    axes.set(xlabel="step", ylabel="mean reward", ylim=(0, 1), title="agl demo: the agent learns to follow pointers")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)  # pyright: ignore[reportUnknownMemberType]  # likewise
