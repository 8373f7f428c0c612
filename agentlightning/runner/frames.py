"""What a runner and the process of an agent tell each other, each message behind its length."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from agentlightning.processes.pickling import dumps
from agentlightning.types import AttemptedRollout, NamedResources, Span

_LENGTH: Final = struct.Struct(">Q")


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


@dataclass(frozen=True, slots=True)
class AgentFailed:
    """The agent has ended with an error; the last message.

    Attributes:
        pickled: The error; None where it cannot be pickled.
        text: Its type and message.
        traceback: Where it was raised.
    """

    pickled: bytes | None
    text: str
    traceback: str


Message: TypeAlias = SpanStarted | SpanEnded | AgentEnded | AgentFailed


def encode(message: Job | Message) -> bytes:
    """Return a message as it is sent."""
    content = dumps(message) if isinstance(message, Job) else pickle.dumps(message)
    return _LENGTH.pack(len(content)) + content


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[Message]:
    """Yield what the process sends until it ends, however it does."""
    try:
        while True:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            yield pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError):
        return


def receive_job(line: socket.socket) -> Job | None:
    """Wait for the job; None when the runner is gone."""
    with line.makefile("rb") as file:
        header = file.read(_LENGTH.size)
        content: Any = file.read(_LENGTH.unpack(header)[0]) if len(header) == _LENGTH.size else b""
        return pickle.loads(content) if content else None
