"""Runs a command agent on one task, and looks at what it left behind."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlightning.emitter import find_final_reward, get_message_value
from agentlightning.litagent import CommandAgent
from agentlightning.litagent.command.agent import OMITTED, STREAM
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import OtelTracer
from agentlightning.types import NamedResources, Span

DEADLINE = 30.0


@dataclass
class Outcome:
    """What one attempt came to."""

    status: str
    error: dict[str, str] | None
    spans: list[Span]
    raised: BaseException | None = None

    @property
    def reward(self) -> float | None:
        return find_final_reward(self.spans)

    def written(self, stream: str) -> str | None:
        found = [get_message_value(span) for span in self.spans if span.attributes.get(STREAM) == stream]
        return found[0] if found else None

    def omitted(self, stream: str) -> Any:
        return next(span.attributes[OMITTED] for span in self.spans if span.attributes.get(STREAM) == stream)


def shell(script: str, **options: Any) -> CommandAgent:
    return CommandAgent(["sh", "-c", script], **options)


async def outcome_of(
    agent: CommandAgent, task: Any = None, resources: NamedResources | None = None, event: Any = None
) -> Outcome:
    """Run the agent once, whatever comes of it."""
    store, runner, raised = InMemoryLightningStore(), LitAgentRunner[Any](OtelTracer()), None
    with runner.run_context(agent=agent, store=store):
        try:
            async with asyncio.timeout(DEADLINE):
                await runner.step(task, resources=resources or {}, mode="train", event=event)
        except Exception as error:  # noqa: BLE001  # what it is, the test looks at
            raised = error
    (rollout,) = await store.query_rollouts()
    (attempt,) = await store.query_attempts(rollout.rollout_id)
    spans = list(await store.query_spans(rollout.rollout_id))
    await store.close()
    return Outcome(attempt.status, (attempt.metadata or {}).get("error"), spans, raised)


def lives(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet buried does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # processes tell nobody
            await asyncio.sleep(0.01)


def pids_in(file: Path) -> list[int]:
    """The process ids that a program wrote, one a line."""
    return [int(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def writing_pids(file: Path, then: str) -> str:
    """A script that starts a child which sleeps, writes where its files and who both are, and goes on."""
    path = shlex.quote(str(file))
    written = f"""echo "$AGL_TASK_FILE" > {path}.task; printf '%s\\n%s\\n' $$ $! > {path}.part; mv {path}.part {path}"""
    return f"sleep 1000 & {written}; {then}"
