"""An evaluation for people: its figures in a few lines, a table of its tasks, files in its folder."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from agentlightning._internal.folders import write_whole
from agentlightning.evaluation.plot import plot_evaluation
from agentlightning.evaluation.result import EvaluatedSet, EvaluationResult

Table = tuple[list[str], list[list[str]]]
"""Its columns, and its rows."""

RECORD_FILE: Final = "evaluation.json"
TABLE_FILE: Final = "tasks.csv"
PLOT_FILE: Final = "evaluation.png"
UNKNOWN: Final = "?"


def write_files(result: EvaluationResult, folder: Path) -> list[Path]:
    """Write the record, the table of all tasks and, where matplotlib is installed, the plot; returns their paths."""
    paths = [folder / RECORD_FILE, folder / TABLE_FILE]
    write_whole(paths[0], json.dumps(result.record(), indent=2) + "\n")
    columns, rows = task_table(result)
    with paths[1].open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    if find_spec("matplotlib") is not None:
        paths.append(folder / PLOT_FILE)
        plot_evaluation(result, paths[-1])
    return paths


def set_table(result: EvaluationResult) -> Table:
    """Return a column of figures for each set."""
    figures = [
        "reward",
        "95 % interval",
        "failed runs",
        "runs without reward",
        "model calls",
        "tokens in",
        "tokens out",
    ]
    columns = [_figures(result, each) for each in result.sets]
    rows = zip([*figures, "cost"] if result.prices else figures, *columns, strict=True)
    return ["resources", *(each.name for each in result.sets)], [[*row] for row in rows]


def task_table(result: EvaluationResult) -> Table:
    """Return a row for each task: its rewards, what changed, tokens and cost; what fell the most comes first."""
    names = [each.name for each in result.sets]
    measures = ["tokens in", "tokens out"] + (["cost"] if result.prices else [])
    columns = ["number", "task", *(f"reward {name}" for name in names)] + (["change"] if result.difference else [])
    columns += [f"{measure} {name}" for name in names for measure in measures]
    records = result.record()["tasks"]
    return columns, [_task_row(result, number, records[number]) for number in _worst_first(result)]


def describe_verdict(result: EvaluationResult) -> str:
    """Say in a line what came of it."""
    difference, count = result.difference, len(result.tasks)
    if difference is None:
        return f"Mean over {count} tasks; name a second set of resources for a verdict."
    return (
        f"{result.sets[1].name} compared with {result.sets[0].name}: {difference.mean:+.4g}, 95 % interval "
        f"{difference.low:+.4g} to {difference.high:+.4g}, paired over {count} tasks, of which {difference.changed} "
        f"changed: {difference.verdict}"
    )


def _figures(result: EvaluationResult, each: EvaluatedSet) -> list[str]:
    usage, reward = each.usage, each.reward
    figures = [
        f"{reward.mean:.4g}",
        f"{reward.low:.4g} to {reward.high:.4g}",
        str(each.failed),
        str(each.unrewarded),
        f"{usage.calls:,}" + (f", {usage.uncounted:,} without token counts" if usage.uncounted else ""),
        f"{usage.prompt_tokens:,}",
        f"{usage.completion_tokens:,}",
    ]
    return figures if result.prices is None else [*figures, _money(result.cost(usage))]


def _worst_first(result: EvaluationResult) -> list[int]:
    """Return the tasks' numbers, by what changed, or by the reward of a single set."""
    rewards = [each.rewards for each in result.sets]
    measure = rewards[0] if len(rewards) == 1 else [after - before for before, after in zip(*rewards, strict=True)]
    return sorted(range(len(measure)), key=measure.__getitem__)


def _task_row(result: EvaluationResult, number: int, record: dict[str, Any]) -> list[str]:
    sets: list[dict[str, Any]] = [*record["sets"].values()]
    row = [str(number), json.dumps(record["task"], ensure_ascii=False), *(f"{each['reward']:.4g}" for each in sets)]
    if result.difference is not None:
        row.append(f"{sets[1]['reward'] - sets[0]['reward']:+.4g}")
    for each in sets:
        row += [str(each["prompt_tokens"]), str(each["completion_tokens"])]
        if result.prices is not None:
            row.append(_money(each["cost"]))
    return row


def _money(cost: float | None) -> str:
    return UNKNOWN if cost is None else f"{cost:.6g}"
