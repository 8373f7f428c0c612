"""`agl train` and `agl dev`."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentlightning.cli.interrupt import INTERRUPTED, ignore_interrupts, interrupt_exits_at_once
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.trainer import TrainingResult

Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: --set algorithm.steps=10. May be repeated."),
]

_TASKS_TO_TRY: Final = 3


def train(
    run: Annotated[
        str, typer.Argument(metavar="CONFIG.yaml | MODULE:FUNCTION", help="What to run; see docs/cli.md for the keys.")
    ],
    changes: Changes = None,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where runners live: shm, cs or ray; short for --set strategy=NAME."),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run; runs/<time> by default.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Folder of an earlier run to go on with, however it ended.")
    ] = None,
) -> None:
    """Train an agent as a file says, or by a function of yours.

    The file is YAML: `agent`, `train` and `val` tasks, `algorithm`, and any other part of a run. A function is called
    without arguments, for what a file cannot say. Ctrl+C stops cleanly, and --resume goes on.

    Example: agl train run.yaml --set algorithm.steps=20 --set n_runners=8

    Example: agl train run.yaml --strategy ray --set n_runners=16

    Example: agl train my_package.training:main
    """
    changes = [*(changes or ()), *([f"strategy={strategy}"] if strategy else ())]
    if ":" in run and not Path(run).exists():
        _refuse_options(changes, run_dir, resume)
        _call(run)
        return
    with interrupt_exits_at_once():  # for imports, which take seconds
        from agentlightning.demo.options import new_folder
        from agentlightning.litagent.loading import load_agent
        from agentlightning.trainer.config import read_config
        from agentlightning.trainer.datasets import load_dataset

        _refuse_two_folders(run_dir, resume)
        config = read_config(Path(run), changes)
        folder = resume or run_dir or config.run_dir or new_folder()
        trainer = config.trainer(folder)
        agent = load_agent(config.agent)
        datasets = [load_dataset(source) if source else None for source in (config.train, config.val)]
        trainer.on_metrics = (_show, *trainer.on_metrics)
    with _interruptible(f"Go on with: agl train {run} --resume {folder}"):
        result = trainer.fit(agent, datasets[0], val_dataset=datasets[1], resume=resume)
    _summarize(result)


def dev(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to try; the same file as for agl train.")],
    changes: Changes = None,
    tasks: Annotated[int, typer.Option(min=1, help="How many tasks of each dataset to run.")] = _TASKS_TO_TRY,
) -> None:
    """Run an agent on a few tasks without training, to see that everything fits together.

    Uses the agent, tasks, resources and parts of a file for `agl train`, with Baseline for the algorithm and a store of
    its own, and keeps nothing. Exit code 1 if a rollout failed.

    Example: agl dev run.yaml --tasks 5
    """
    with interrupt_exits_at_once():
        from agentlightning.litagent.loading import load_agent
        from agentlightning.trainer.config import read_config
        from agentlightning.trainer.datasets import load_dataset

        own: dict[str, Any] = {"algorithm": "baseline", "store": None, "metrics": []}
        read = read_config(config, changes or ()).model_copy(update=own)
        trainer = read.trainer(None)
        agent = load_agent(read.agent)
        datasets = [_first(load_dataset(source), tasks) if source else None for source in (read.train, read.val)]
    with _interruptible("Nothing was kept."):
        result = trainer.dev(agent, datasets[0], val_dataset=datasets[1])
    _summarize(result)
    if result.rollouts.keys() - {"succeeded"}:
        raise typer.Exit(1)


def _refuse_options(changes: list[str], run_dir: Path | None, resume: Path | None) -> None:
    if changes or run_dir or resume:
        raise ConfigurationError(
            "--set, --strategy, --run-dir and --resume are for files: a function says for itself what it runs"
        )


def _refuse_two_folders(run_dir: Path | None, resume: Path | None) -> None:
    if run_dir and resume and run_dir.resolve() != resume.resolve():
        raise ConfigurationError(
            f"--run-dir {run_dir} and --resume {resume} name two folders: a run goes on in its own, so leave "
            "--run-dir out"
        )


def _call(target: str) -> None:
    from agentlightning.litagent.loading import load_object

    function = load_object(target, "function")
    if not callable(function):
        raise ConfigurationError(f"{target} is no function but a {type(function).__name__}")
    with _interruptible("What was finished is where your program keeps it."):
        outcome: Any = function()
        if inspect.iscoroutine(outcome):
            import asyncio

            asyncio.run(outcome)


def _first(dataset: Any, count: int) -> list[Any]:
    return [dataset[index] for index in range(min(count, len(dataset)))]


def _show(record: Mapping[str, Any]) -> None:
    """Print the first figures of a record, which are the most telling ones."""
    shown = [_figure(key, value) for key, value in record.items() if isinstance(value, int | float)]
    typer.echo("  ".join([str(record.get("kind", "")), *shown[:7]]).strip(), err=True)


def _figure(name: str, value: float) -> str:
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def _summarize(result: TrainingResult) -> None:
    rollouts = ", ".join(f"{count:,} {status}" for status, count in result.rollouts.items()) or "none"
    typer.echo(f"Rollouts: {rollouts}. Took {result.seconds:.1f} s.")
    if result.score is not None:
        typer.echo(f"Best score: {result.score:.4g}")
    if result.run_dir is not None:
        typer.echo(f"Everything is in {result.run_dir}; see: agl runs show {result.run_dir}")


@contextmanager
def _interruptible(advice: str) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        ignore_interrupts()
        typer.echo(f"Interrupted. {advice}", err=True)
        raise typer.Exit(INTERRUPTED) from None
