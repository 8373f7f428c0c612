"""`agl demo`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentlightning.cli.interrupt import INTERRUPTED, ignore_interrupts, interrupt_exits_at_once
from agentlightning.errors import ConfigurationError
from agentlightning.extras import needed_for

if TYPE_CHECKING:
    from agentlightning.demo.options import DemoOptions


class Strategy(StrEnum):
    """Where the demo's runners live."""

    shm = "shm"
    cs = "cs"
    ray = "ray"


_PLACEMENTS: Final[dict[Strategy, dict[str, Any]]] = {
    Strategy.shm: {},
    Strategy.cs: {"strategy": "cs", "n_runners": 2, "concurrency": 32},
    Strategy.ray: {"strategy": "ray", "n_runners": 2, "concurrency": 32},
}


def demo(
    context: typer.Context,
    seed: Annotated[int, typer.Option(help="Order of the tasks; with --from-scratch also the policy.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the policy.")] = 40,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; runs/<time> by default.")] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Build tokenizer and policy anew; takes about half a minute more.")
    ] = False,
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="Where runners live: shm in this process, cs in two processes of their own, ray on a Ray cluster."
        ),
    ] = Strategy.shm,
    resume: Annotated[
        Path | None, typer.Option(help="Folder of an earlier run to go on with, as it was begun.", metavar="RUN")
    ] = None,
) -> None:
    """Watch a small tool-using agent learn on this machine, without a GPU or a key.

    The agent (examples/pointer_lookup) answers questions by calling a lookup tool as often as it needs. Its policy is
    evaluated on 200 frozen test tasks, trained with GRPO, and evaluated again. Ctrl+C stops cleanly and keeps
    everything so far.
    """
    with interrupt_exits_at_once(), needed_for("the demo"):  # these take seconds
        from rich.console import Console

        from agentlightning.demo.options import DemoOptions, new_folder
        from agentlightning.demo.run import describe_kept, run_demo

    if resume is not None:
        options = _saved_options(resume, _given(context))
    else:
        options = DemoOptions(
            seed=seed, steps=steps, output=output or new_folder(), from_scratch=from_scratch, **_PLACEMENTS[strategy]
        )
    console = Console()
    try:
        run_demo(options, console)
    except KeyboardInterrupt:
        ignore_interrupts()
        console.print(f"Interrupted. {describe_kept(options.output)}", highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


def _given(context: typer.Context) -> dict[str, Any]:
    """Return the options that the user wrote, by name."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    written = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    return {name: value for name, value in context.params.items() if name in written}


def _saved_options(folder: Path, given: Mapping[str, Any]) -> DemoOptions:
    """Return the options of the run in a folder, which goes on as it was begun, whatever else is asked for."""
    from agentlightning.demo.options import saved_options

    options = saved_options(folder)
    for name in ("seed", "steps", "output", "from_scratch", "strategy"):
        begun: Any = getattr(options, name)
        asked = given.get(name, begun)
        if asked != begun and not (name == "output" and asked.resolve() == begun.resolve()):
            raise ConfigurationError(
                f"--{name.replace('_', '-')} {asked} disagrees with --resume {folder}, which was begun with {begun}: "
                "leave it out to go on with that run, or leave --resume out to begin another"
            )
    return options
