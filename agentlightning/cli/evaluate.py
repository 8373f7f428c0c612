"""`agl evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from agentlightning.cli.interrupt import INTERRUPTED, ignore_interrupts, interrupt_exits_at_once
from agentlightning.cli.store_location import progress_bar
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.evaluation import EvaluationResult, Prices
    from agentlightning.evaluation.report import Table
    from agentlightning.types import NamedResources

_TASKS_SHOWN: Final = 20
_WIDEST_TASK: Final = 20


def evaluate(
    agent: Annotated[
        str, typer.Argument(metavar="MODULE:AGENT", help="The agent; also path/to/file.py:agent.", show_default=False)
    ],
    data: Annotated[
        str, typer.Option(metavar="FILE", help="Tasks: .jsonl, .json, .csv, .parquet, or package.module:name.")
    ],
    resources: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE", help="A set of resources as JSON, or a run's best.json; once or twice, old before new."
        ),
    ],
    samples: Annotated[int, typer.Option(min=1, help="How often each task is run with each set.")] = 1,
    runners: Annotated[int, typer.Option(min=1, help="How many rollouts run at a time.")] = 4,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for all rollouts of one set; what has not ended then has failed.")
    ] = 3600,
    price: Annotated[
        str | None, typer.Option(metavar="PROMPT,COMPLETION", help="What a million tokens of each kind cost.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; runs/<time> by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Run an agent on the same tasks with two sets of resources, and say whether the second is better.

    The verdict is `better`, `worse` or `no evidence of a difference`, from a paired bootstrap over the tasks. One set
    alone gets its mean and the interval around it. The folder keeps every rollout, evaluation.json, tasks.csv and a
    plot.

    Example: agl evaluate my_agents:solve --data test.jsonl --resources old.json --resources new.json --price 0.15,0.6
    """
    with interrupt_exits_at_once():  # for imports, which take seconds
        from agentlightning.demo.options import new_folder
        from agentlightning.evaluation import evaluate as run_evaluation
        from agentlightning.evaluation.report import write_files
        from agentlightning.litagent.loading import load_agent
        from agentlightning.trainer.datasets import load_dataset

        loaded, tasks = load_agent(agent), load_dataset(data)
        sets, prices, folder = _read_sets(resources), _prices(price), output or new_folder()
    try:
        with progress_bar("Evaluating", "rollouts") as show:
            result = run_evaluation(
                loaded,
                tasks,
                sets,
                samples=samples,
                n_runners=runners,
                timeout=timeout,
                prices=prices,
                run_dir=folder,
                on_progress=show,
            )
    except KeyboardInterrupt:
        ignore_interrupts()
        typer.echo(f"Interrupted. What was finished is in {folder}; there is no verdict.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    written = write_files(result, folder)
    if as_json:
        typer.echo(json.dumps(result.record(), indent=2))
    else:
        _print(result, written)


def _read_sets(paths: Sequence[Path]) -> dict[str, NamedResources]:
    """Return each file's resources, by the name of the file, or by its path where names are alike."""
    alike = len({path.stem for path in paths}) < len(paths)
    sets = {str(path) if alike else path.stem: _read_set(path) for path in paths}
    if len(sets) < len(paths):
        raise ConfigurationError("the same file of resources is named twice: there is nothing to compare")
    return sets


def _read_set(path: Path) -> NamedResources:
    from pydantic import TypeAdapter, ValidationError

    from agentlightning.types import NamedResources

    try:
        content: Any = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict) and content.keys() == {"score", "resources"}:  # a run's best.json
            content = cast("dict[str, Any]", content)["resources"]
        return TypeAdapter[NamedResources](NamedResources).validate_python(content)
    except (OSError, ValidationError, ValueError) as error:
        raise ConfigurationError(
            f'{path} holds no resources: write {{"name": {{"resource_type": "prompt_template" or "llm", …}}}}; {error}'
        ) from error


def _prices(text: str | None) -> Prices | None:
    from agentlightning.evaluation import Prices

    if text is None:
        return None
    try:
        prompt, completion = map(float, text.split(","))
    except ValueError as error:
        raise ConfigurationError(
            f"--price {text} is no pair of prices: write prompt,completion, such as 0.15,0.6"
        ) from error
    return Prices(prompt, completion)


def _print(result: EvaluationResult, written: Sequence[Path]) -> None:
    from agentlightning.evaluation.report import describe_verdict, set_table, task_table

    columns, rows = task_table(result)
    shown = _first_and_last(rows)
    _print_table((columns[1:], [row[1:] for row in shown]))
    if len(rows) > len(shown):
        typer.echo(f"The {len(shown)} tasks at both ends of {len(rows)}; all are in {written[1]}")
    _print_table(set_table(result))
    typer.echo(describe_verdict(result))
    typer.echo(f"Took {result.seconds:.1f} s. In {result.run_dir}: {', '.join(path.name for path in written)}")


def _first_and_last(rows: list[list[str]]) -> list[list[str]]:
    half = _TASKS_SHOWN // 2
    return rows if len(rows) <= _TASKS_SHOWN else rows[:half] + rows[-half:]


def _print_table(table: Table) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    columns, rows = table
    printed = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        widest_word = max(map(len, column.split()))
        if column == "task":
            printed.add_column(column, no_wrap=True, min_width=widest_word, max_width=_WIDEST_TASK)
        else:
            printed.add_column(column, overflow="fold", min_width=widest_word)
    for row in rows:
        printed.add_row(*row)
    Console(markup=False).print(printed, crop=False)  # tasks are text of others, and no figure is cut off
