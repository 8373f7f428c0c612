"""A process that does a part of a run, from the strategy's side."""

from __future__ import annotations

import asyncio
import logging
import pickle
from contextlib import suppress
from typing import Final

from agentlightning._internal.aio import to_its_end, wait_for_flag
from agentlightning.errors import ExecutionError
from agentlightning.execution.events import ExecutionEvent
from agentlightning.execution.parts import Assignment, Claims, Done, Order, Part
from agentlightning.processes.child import ChildProcess
from agentlightning.processes.failure import Failure
from agentlightning.processes.frames import framed, messages

logger = logging.getLogger(__name__)

_LAST_WORDS_SECONDS: Final = 1.0
"""For what an ended process has sent; one that it left behind may hold its socket open."""


class Member:
    """Starts a process and follows it to its end; it belongs to the event loop in which it is made.

    Args:
        part: What the process does.
        who: Whose process it is, for errors and logs.
        cancel_seconds: How long a process may clean up that was cancelled, before it is killed.

    Attributes:
        workers: The names under which it has claimed work.
        done: Set when it has done its part.
    """

    def __init__(self, part: Part, who: str, cancel_seconds: float) -> None:
        self.workers: set[str] = set()
        self.done = asyncio.Event()
        self._cancelled = False
        self._part = part
        self._who = who
        self._cancel_seconds = cancel_seconds
        self._failure: Failure | None = None
        self._process = ChildProcess("agentlightning.execution.child")
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def ended_well(self) -> bool:
        """Whether it has ended because its part is done, or as it was told to; it has left nothing in hand then."""
        return self.done.is_set() or (self._cancelled and self._process.returncode == 0)

    async def run(self, event: ExecutionEvent) -> int:
        """Follow the process to its end and return its exit code; nobody of its process group is left then.

        The event tells it to stop. When the caller is cancelled, it is cancelled too, and killed if that takes longer
        than `cancel_seconds`, or at once when the caller is cancelled again.

        Raises:
            Exception: What its work raised there.
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            reader, self._writer = await asyncio.open_connection(sock=self._process.line)
            self._writer.write(framed(pickle.dumps(Assignment(self._part, log_level()))))
            tasks += asyncio.create_task(self._listen(reader)), asyncio.create_task(self._stop_on(event))
            code = await self._process.exit_code()
            await asyncio.wait(tasks[:1], timeout=_LAST_WORDS_SECONDS)
        except asyncio.CancelledError:
            if self._writer is None:  # it has not begun
                raise
            self._cancelled = True
            self.tell(Order.CANCEL)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._cancel_seconds):
                    await self._process.exit_code()
                raise
            logger.warning("%s did not end within %g s and is killed.", self._who, self._cancel_seconds)
            raise
        finally:
            for task in tasks:
                task.cancel()
            if self._writer is not None:
                self._writer.transport.abort()  # `close` would first send what nobody reads any more
            await to_its_end(self._process.end())
        if self._failure is not None:
            raise self._failure.error(self._who, ExecutionError)
        return code

    def tell(self, order: Order) -> None:
        """Send an order; a process that has ended hears of none."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(framed(pickle.dumps(order)))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        async for message in messages(reader):
            if isinstance(message, Claims):
                self.workers.add(message.worker)
            elif isinstance(message, Done):
                self.done.set()
            else:
                self._failure = message

    async def _stop_on(self, event: ExecutionEvent) -> None:
        await wait_for_flag(event)
        self.tell(Order.STOP)


def log_level() -> int | None:
    """Return from which level on the program logs; None where it shows no logs."""
    package = logging.getLogger("agentlightning")
    return package.getEffectiveLevel() if package.hasHandlers() else None
