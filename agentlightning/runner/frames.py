"""What a runner and the process of an agent tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from agentlightning.processes.failure import Failure
from agentlightning.types import AttemptedRollout, NamedResources, Span


@dataclass(frozen=True, slots=True)
class Job:
    """What the process is to do; the first message and the only one to it. Agent and tracer are pickled already."""

    agent: bytes
    tracer: bytes
    rollout: AttemptedRollout
    resources: NamedResources


@dataclass(frozen=True, slots=True)
class SpanStarted:
    """A span of this index has started; `sequence_id` is its place if it has one already."""

    index: int
    sequence_id: int | None


@dataclass(frozen=True, slots=True)
class SpanEnded:
    """The span of this index."""

    index: int
    span: Span


@dataclass(frozen=True, slots=True)
class AgentEnded:
    """The agent has ended, and its result is among the spans; the last message."""


Message: TypeAlias = SpanStarted | SpanEnded | AgentEnded | Failure
"""The last one is `AgentEnded`, or the `Failure` that the agent ended with."""
