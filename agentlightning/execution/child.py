"""A process that does a part of a run, from its own side."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import NoReturn

from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.interrupts import TERMINATED
from agentlightning.execution.loop_thread import Cancellable, run_in_this_thread
from agentlightning.execution.parts import Assignment, Order
from agentlightning.logging import setup_logging
from agentlightning.processes.failure import Failure
from agentlightning.processes.frames import Line


def main(descriptor: int) -> NoReturn:
    """Do the part that comes over the socket, and exit without waiting for anything that it left running."""
    line = Line(descriptor)
    assignment: Assignment | None = line.receive()
    failure = None if assignment is None else _failure_of(assignment, line)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # there may be none, or the agent has closed it
            stream.flush()
    if failure is None:
        os._exit(0)
    with suppress(OSError):
        line.send(failure)
    os._exit(1)


def _failure_of(assignment: Assignment, line: Line) -> Failure | None:
    if assignment.log_level is not None:
        setup_logging(assignment.log_level)
    event, leave = ThreadingEvent(), ThreadingEvent()
    work = Cancellable(partial(assignment.part.run, event, leave, line.send))
    threading.Thread(target=_obey, args=(line, event, leave, work), name="agl-orders", daemon=True).start()
    try:
        run_in_this_thread(work)
    except asyncio.CancelledError:
        return None  # it was told so
    except SystemExit as error:
        if error.code == TERMINATED:
            _end_by(signal.SIGTERM)
        return Failure.of(error)
    except BaseException as error:  # noqa: BLE001  # raised again by the strategy
        return Failure.of(error)
    return None


def _obey(line: Line, event: ThreadingEvent, leave: ThreadingEvent, work: Cancellable) -> None:
    """Do what the strategy says, and end at once when its process is gone."""
    while (order := line.receive()) is not None:
        if order is Order.STOP:
            event.set()
        elif order is Order.CANCEL:
            event.set()
            work.cancel()
        else:
            leave.set()
    os._exit(1)


def _end_by(number: signal.Signals) -> None:
    """End as a process does that does not handle the signal, so that whoever waits for it sees the signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
