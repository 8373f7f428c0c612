"""`agl doctor`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from agentlightning.cli.interrupt import interrupt_exits_at_once

RewardMatch: TypeAlias = Literal["first_occurrence", "first_sibling", "back_fill", "final"]
"""The values of `RewardMatchPolicy`, which takes long to import."""


def doctor(
    agent: Annotated[str, typer.Argument(help="The agent: package.module:name or path/to/file.py:name.")],
    task: Annotated[Path | None, typer.Option(help="JSON file of the task; a small question by default.")] = None,
    resources: Annotated[
        Path | None, typer.Option(help="JSON file of the resources by name; one LLM called llm by default.")
    ] = None,
    replies: Annotated[
        Path | None,
        typer.Option(help="JSON file of what the scripted model says, a list; gone through again and again."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the models of --resources instead of the scripted one.")
    ] = False,
    agent_match: Annotated[
        str | None, typer.Option(help="Expression that finds the names of the agents to train; all by default.")
    ] = None,
    reward_match: Annotated[RewardMatch, typer.Option(help="How rewards find their calls.")] = "first_occurrence",
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds after which the agent is stopped.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what training would see of an agent, before anything is trained.

    Runs the agent once, behind the real gateway, against a scripted model: no key, no GPU. For each model call it says
    who captured it, whether its tokens and log-probabilities are there, and which reward it got; then what merges into
    training rows, and what breaks them. Exit code 0 if the agent is ready for training, 1 if not.
    """
    with interrupt_exits_at_once():  # these take a while
        from agentlightning.adapter.rewards import RewardMatchPolicy
        from agentlightning.doctor import ScriptedModel, describe, diagnose
        from agentlightning.doctor.exits import exits_raise
        from agentlightning.doctor.inputs import load_replies, load_resources, load_task
        from agentlightning.litagent.loading import load_agent

    with _everything_to_stderr(), exits_raise():  # what the agent prints is no part of the report
        report = diagnose(
            load_agent(agent),
            load_task(task) if task else None,
            resources=load_resources(resources) if resources else None,
            model=ScriptedModel(load_replies(replies)) if replies else None,
            live=live,
            agent_match=agent_match,
            reward_match=RewardMatchPolicy(reward_match),
            deadline=deadline,
        )
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else describe(report))
    if not report.ok:
        raise typer.Exit(1)


@contextmanager
def _everything_to_stderr() -> Generator[None]:
    """Let nothing inside the block reach stdout, neither from here nor from processes that are started."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
