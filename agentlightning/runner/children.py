"""Agents in processes of their own: one for each call, the leader of a process group, which is killed whole."""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from agentlightning._internal.threads import run_in_thread
from agentlightning.errors import AgentError
from agentlightning.litagent.command.program import words_for
from agentlightning.processes.guard import Guard
from agentlightning.processes.pickling import pickled
from agentlightning.runner.cancel import uninterrupted
from agentlightning.runner.frames import AgentEnded, AgentFailed, Job, SpanStarted, encode, messages
from agentlightning.runner.outcome import with_identity
from agentlightning.tracer import Tracer
from agentlightning.types import AttemptedRollout, NamedResources

if TYPE_CHECKING:
    from agentlightning.litagent import LitAgent
    from agentlightning.tracer.active import ActiveTrace, SpanRecord

KILL_DEADLINE: Final = 10.0
"""Seconds for the kernel to end a process that was killed."""
_BUFFER: Final = 2**20
_START: Final = (
    "import sys; sys.path[:] = {path!r}; sys.argv[:] = {argv!r}; "
    "from agentlightning.runner.child import main; main({descriptor})"
)


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
        portable = copy.copy(tracer)
        Tracer.teardown_worker(portable, 0)  # this worker's store stays here
        self._tracer = pickled(portable, "the tracer")

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
        child = Child()
        try:
            ended = await child.work(Job(self._agent, self._tracer, rollout, resources), trace)
            if ended is None:
                raise AgentError(f"the process of the agent {_words(await child.exit_code())} before the agent ended")
        finally:
            await uninterrupted(child.end(), 2 * KILL_DEADLINE)
        if isinstance(ended, AgentFailed):
            raise _error(ended)


class Child:
    """One process; it dies with this one, however this one dies, and all of its process group with it.

    Its standard output and its arguments are this process's, its standard input empty.
    """

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            start = _START.format(path=sys.path, argv=sys.argv, descriptor=theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._guard: Guard | None = None
        with suppress(FileNotFoundError):  # a machine without a shell: what the agent started is on its own
            self._guard = Guard(self._process.pid)
        self._lock = threading.Lock()
        self._exit = asyncio.create_task(run_in_thread(self._wait, "agent-exit"))

    async def work(self, job: Job, trace: ActiveTrace) -> AgentEnded | AgentFailed | None:
        """Let the process do the job; returns its last word, or None if it ended without one."""
        reader, writer = await asyncio.open_connection(sock=self._line, limit=_BUFFER)
        try:
            writer.write(encode(job))
            started: dict[int, SpanRecord] = {}
            async for message in messages(reader):
                if isinstance(message, (AgentEnded, AgentFailed)):
                    return message
                if isinstance(message, SpanStarted):
                    started[message.index] = trace.start(message.sequence_id)
                else:
                    trace.end(started.pop(message.index), functools.partial(with_identity, message.span))
            return None
        finally:
            writer.transport.abort()  # `close` would first send what nobody reads any more

    async def exit_code(self) -> int:
        """Return the exit code once the process has ended; the negative number of the signal that ended it."""
        return await asyncio.shield(self._exit)

    async def end(self) -> None:
        """Kill what is left of the process group."""
        self._kill()
        await asyncio.wait({self._exit}, timeout=KILL_DEADLINE)
        if self._guard is not None:
            self._guard.stand_down()
        self._line.close()

    def _wait(self) -> int:
        """Wait for the end of the process, and end those that it left behind before its number is free again."""
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self._kill()
        with self._lock:
            return self._process.wait()

    def _kill(self) -> None:
        with self._lock:
            if self._process.returncode is None:
                # macOS calls it a lack of permission when those left are dead.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)


def _words(exit_code: int) -> str:
    return words_for(exit_code) if exit_code else "ended with exit code 0"


def _error(failure: AgentFailed) -> BaseException:
    """Return the agent's error, which tells where in its process it was raised."""
    error = _unpickled(failure)
    error.add_note(f"In the process of the agent:\n{failure.traceback}")
    return error


def _unpickled(failure: AgentFailed) -> BaseException:
    if failure.pickled is not None:
        with suppress(Exception):  # of a module that only the process has, say
            error = pickle.loads(failure.pickled)
            return (
                error if isinstance(error, (Exception, SystemExit)) else AgentError(f"the agent raised {failure.text}")
            )
    return AgentError(f"the agent raised an error that cannot be pickled, {failure.text}")
