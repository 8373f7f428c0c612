"""The commands of `agl`, and how their errors reach the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import agentlightning
from agentlightning.cli.demo import demo
from agentlightning.cli.doctor import doctor
from agentlightning.cli.evaluate import evaluate
from agentlightning.cli.export import export
from agentlightning.cli.proxy import proxy
from agentlightning.cli.replaced import prometheus, vllm
from agentlightning.cli.runs import runs
from agentlightning.cli.serve import serve_model
from agentlightning.cli.store import store
from agentlightning.cli.train import dev, train
from agentlightning.errors import AgentLightningError

app = typer.Typer(
    name="agl",
    help="Train any AI agent with almost no change to the agent.",
    epilog="Start with `agl demo`: it trains a small tool-using agent on this machine in about two minutes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(dev)
app.command()(evaluate)
app.command()(demo)
app.command()(doctor)
app.command()(proxy)
app.command("serve")(serve_model)
app.command()(export)
app.add_typer(runs, name="runs")
app.add_typer(store, name="store")
# They take v0.3's options, whatever these were, to say what takes their place.
for ended in (vllm, prometheus):
    app.command(hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(ended)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(agentlightning.__version__)


@app.callback()
def agl(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show all that the parts log, not only warnings.")
    ] = False,
) -> None:
    """Train any AI agent with almost no change to the agent."""
    from agentlightning.logging import setup_logging

    setup_logging("INFO" if verbose else "WARNING")


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; an error of this package becomes one line."""
    try:
        app(args=list(argv) if argv is not None else None)
    except SystemExit as done:  # how typer ends, wrong usage included, which it explains
        return done.code if isinstance(done.code, int) else 0
    except AgentLightningError as error:
        print(f"agl: {error}", file=sys.stderr)  # noqa: T201  # the command's own output
        return 1
    return 0
