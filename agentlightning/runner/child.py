"""The process of one call of an agent, from its own side."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import pickle
import sys
from collections.abc import Awaitable, Generator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any, NoReturn

from opentelemetry import context as otel_context

from agentlightning._internal.heap import begin_collecting
from agentlightning.errors import InvalidValue
from agentlightning.litagent import LitAgent
from agentlightning.processes.failure import Failure
from agentlightning.processes.frames import Line
from agentlightning.runner.agent import LitAgentRunner
from agentlightning.runner.frames import (
    AgentEnded,
    Job,
    Message,
    SpanEnded,
    SpanStarted,
)
from agentlightning.runner.outcome import record_result
from agentlightning.tracer import Tracer
from agentlightning.tracer.active import LAST_TRACE, TRACE_KEY, ActiveTrace, MakeSpan, SpanRecord, follow_into_threads

logger = logging.getLogger(__name__)


def main(descriptor: int) -> NoReturn:
    """Do the job that comes over the socket, and exit without waiting for anything that the agent left running."""
    line = Line(descriptor)
    job: Job | None = line.receive()
    if job is None:
        os._exit(1)
    loop = asyncio.Runner()  # never closed: that waits for what the agent left running
    ended = _ended(job, line, loop)
    # Before the last message, after which the runner kills what is left.
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # there may be none, or the agent has closed it
            stream.flush()
    line.send(ended)
    os._exit(0)


class RelayedTrace(ActiveTrace):
    """A trace whose spans go to the runner, which places them into the trace of the attempt."""

    def __init__(self, tracer: Tracer, rollout_id: str, attempt_id: str, line: Line) -> None:
        super().__init__(tracer, rollout_id, attempt_id, None)
        self._line = line

    def start(self, sequence_id: int | None = None) -> SpanRecord:
        """Tell the runner that a span starts, so that its place is reserved."""
        record = super().start(sequence_id)
        self._line.send(SpanStarted(record.index, sequence_id))
        return record

    def end(self, record: SpanRecord, make: MakeSpan) -> None:
        """Send the span."""
        super().end(record, make)
        try:
            span = record.span(record.sequence_id or record.index)
        except InvalidValue as error:  # the agent ends a span there, and has no part in this
            logger.error("A span of rollout %s is lost: %s", self.rollout_id, error)
            return
        self._line.send(SpanEnded(record.index, span))


def _ended(job: Job, line: Line, loop: asyncio.Runner) -> Message:
    try:
        _call(job, line, loop)
    except BaseException as error:  # noqa: BLE001  # raised again in the runner's process
        return Failure.of(error)
    return AgentEnded()


def _call(job: Job, line: Line, loop: asyncio.Runner) -> None:
    agent: LitAgent[Any] = pickle.loads(job.agent)
    tracer: Tracer = pickle.loads(job.tracer)
    begin_collecting()
    runner = LitAgentRunner[Any](tracer)
    agent.set_runner(runner)
    tracer.init()
    trace = RelayedTrace(tracer, job.rollout.rollout_id, job.rollout.attempt.attempt_id, line)
    trace.runner = runner
    with _opened(trace):
        method = agent.method_for(job.rollout.mode)
        result = method(job.rollout.input, resources=job.resources, rollout=job.rollout)
        if inspect.isawaitable(result):
            result = loop.run(_awaited(result), context=copy_context())
        record_result(result, trace)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


@contextmanager
def _opened(trace: ActiveTrace) -> Generator[None]:
    """Open a trace without an event loop, as an agent that is not async may start one itself."""
    follow_into_threads()
    LAST_TRACE.set(trace)
    otel_context.attach(otel_context.set_value(TRACE_KEY, trace))
    with trace.tracer._opened(trace):  # pyright: ignore[reportPrivateUsage]  # `trace_context` makes a trace of its own
        yield
