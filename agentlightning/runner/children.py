"""Agents in processes of their own: one for each call, the leader of a process group, which is killed whole."""

from __future__ import annotations

import asyncio
import copy
import functools
from typing import TYPE_CHECKING, Any, Final

from agentlightning.errors import AgentError
from agentlightning.processes.child import KILL_DEADLINE, ChildProcess
from agentlightning.processes.failure import Failure
from agentlightning.processes.frames import framed, messages
from agentlightning.processes.pickling import dumps, pickled
from agentlightning.processes.words import words_for
from agentlightning.runner.cancel import uninterrupted
from agentlightning.runner.frames import AgentEnded, Job, SpanStarted
from agentlightning.runner.outcome import with_identity
from agentlightning.types import AttemptedRollout, NamedResources

if TYPE_CHECKING:
    from agentlightning.litagent import LitAgent
    from agentlightning.tracer import Tracer
    from agentlightning.tracer.active import ActiveTrace, SpanRecord

_BUFFER: Final = 2**20


class Children:
    """Calls an agent, each time in a process of its own.

    Args:
        agent: The agent.
        tracer: Records what it does there; its spans become spans of the trace here, in the same order.

    Raises:
        ConfigurationError: One of them cannot be pickled; the message names the part that cannot.
    """

    def __init__(self, agent: LitAgent[Any], tracer: Tracer) -> None:
        self._agent = pickled(agent, "the agent")
        # A copy has no store, so that an error names what cannot be sent, and not the store, which is not.
        self._tracer = pickled(copy.copy(tracer), "the tracer")

    async def run(self, rollout: AttemptedRollout, resources: NamedResources, trace: ActiveTrace) -> None:
        """Call the agent and record what it returns; when this ends, nobody of its process group is left.

        Args:
            rollout: The rollout with its attempt.
            resources: Its resources.
            trace: Gets the agent's spans.

        Raises:
            AgentError: The process ended before the agent, or the agent's own error cannot be pickled, or would end
                this process, as a KeyboardInterrupt does.
            SystemExit: The agent raised it.
            Exception: Whatever else the agent raised.
        """
        child = ChildProcess("agentlightning.runner.child")
        try:
            ended = await _work(child, Job(self._agent, self._tracer, rollout, resources), trace)
            if ended is None:
                raise AgentError(
                    f"the process of the agent {words_for(await child.exit_code())} before the agent ended"
                )
        finally:
            await uninterrupted(child.end(), 2 * KILL_DEADLINE)
        if isinstance(ended, Failure):
            raise ended.error("the agent", AgentError)


async def _work(process: ChildProcess, job: Job, trace: ActiveTrace) -> AgentEnded | Failure | None:
    """Let the process do the job; returns its last word, or None if it ended without one."""
    reader, writer = await asyncio.open_connection(sock=process.line, limit=_BUFFER)
    try:
        writer.write(framed(dumps(job)))
        started: dict[int, SpanRecord] = {}
        async for message in messages(reader):
            if isinstance(message, (AgentEnded, Failure)):
                return message
            if isinstance(message, SpanStarted):
                started[message.index] = trace.start(message.sequence_id)
            else:
                trace.end(started.pop(message.index), functools.partial(with_identity, message.span))
        return None
    finally:
        writer.transport.abort()  # `close` would first send what nobody reads any more
