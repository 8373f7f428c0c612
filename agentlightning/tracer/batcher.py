"""Items from any thread, sent in order and in batches by one task of an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from opentelemetry.instrumentation.utils import suppress_instrumentation

from agentlightning._internal.aio import runs_here

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH: Final = 1000
RESUME_DELAY: Final = 0.1
"""Seconds until a cancelled task that nobody waits for is replaced: its loop may be about to end."""


class Batcher(Generic[T]):
    """Collects items and hands them to `send`, in order, one batch at a time.

    Nothing runs while nothing is queued, so a batcher needs no closing.

    Args:
        loop: The event loop on which `send` runs.
        send: Sends a batch. It says on the items what went wrong; what it raises costs the batch.
        delay: Seconds a first item waits for company; at 0 it is sent in the loop's next turn. `flush` does not wait.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, send: Callable[[list[T]], Awaitable[None]], delay: float
    ) -> None:
        self._loop = loop
        self._send = send
        self._delay = delay
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._accepted = 0
        self._sent = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()
        # A task of ours must not inherit the trace of whoever queued first.
        self._context = contextvars.Context()

    def put(self, item: T) -> None:
        """Queue an item; from any thread, never blocking.

        Raises:
            RuntimeError: The event loop is closed, so nobody will ever send the item.
        """
        if self._loop.is_closed():
            raise RuntimeError("the event loop of the batcher is closed")
        with self._lock:
            self._items.append(item)
            self._accepted += 1
            if self._scheduled:
                return
            self._scheduled = True
        if runs_here(self._loop):
            self._arm()
        else:
            self._loop.call_soon_threadsafe(self._arm)

    async def flush(self) -> None:
        """Return when everything queued before this call was sent; call it on the batcher's loop."""
        target = self._accepted
        if self._sent >= target:
            return
        done = self._loop.create_future()
        self._flushes.append((target, done))
        self._start()
        await done

    def _arm(self) -> None:
        if self._task is not None or self._timer is not None:
            return
        if self._delay:
            self._timer = self._loop.call_later(self._delay, self._start)
        else:
            self._start()

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = self._loop.create_task(self._drain(), context=self._context)
            self._task.add_done_callback(self._drained, context=self._context)

    async def _drain(self) -> None:
        with suppress_instrumentation():
            while batch := self._take():
                await self._send_all(batch)

    def _drained(self, task: asyncio.Task[None]) -> None:
        """Go on where a task was cancelled, be it before its first step, or where an item came as it ended."""
        self._task = None
        if any(not done.done() for _, done in self._flushes):  # not those that were given up, maybe with the loop
            self._start()
        elif self._items and self._timer is None:
            self._timer = self._loop.call_later(RESUME_DELAY if task.cancelled() else self._delay, self._start)

    async def _send_all(self, batch: list[T]) -> None:
        try:
            await self._send(batch)
        except asyncio.CancelledError:
            with self._lock:
                self._items.extendleft(reversed(batch))
            raise
        except Exception:
            logger.exception("%d items were not sent", len(batch))
        self._sent += len(batch)
        self._wake()

    def _take(self) -> list[T]:
        with self._lock:
            batch = [self._items.popleft() for _ in range(min(len(self._items), MAX_BATCH))]
            self._scheduled = bool(batch)
        return batch

    def _wake(self) -> None:
        while self._flushes and self._flushes[0][0] <= self._sent:
            _, done = self._flushes.popleft()
            if not done.done():
                done.set_result(None)
