"""A client's connections, of which each event loop has its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

from agentlightning.errors import StoreClosed
from agentlightning.http1 import HttpClient

T = TypeVar("T")

_AT_ONCE: Final = 64
"""Requests under way at once, beside those that wait; more would only queue in the server."""


class Connections:
    """Gives each event loop its connections.

    Args:
        open_http: Makes a loop's connections; called within it.
        drain_seconds: How long `close` waits for requests under way.
    """

    def __init__(self, open_http: Callable[[], HttpClient], drain_seconds: float) -> None:
        self._open_http = open_http
        self._drain_seconds = drain_seconds
        self._lock = threading.Lock()
        self._closed = False
        self._lives: dict[asyncio.AbstractEventLoop, tuple[LoopConnection, AsyncGenerator[None]]] = {}

    async def of_this_loop(self) -> LoopConnection:
        """Return the running loop's.

        Raises:
            StoreClosed: `close` was called.
        """
        loop = asyncio.get_running_loop()
        found = self._lives.get(loop)
        if found is not None and not found[0].closed:
            return found[0]
        with self._lock:
            if self._closed:
                raise StoreClosed("the client was closed")
            for dead in [other for other in self._lives if other.is_closed()]:
                del self._lives[dead]
            connection = LoopConnection(self._open_http(), self._drain_seconds)
            life = _until_the_loop_ends(connection)
            self._lives[loop] = connection, life
        await anext(life)
        return connection

    async def close(self) -> None:
        """Let what is under way end, here and in the other running loops, and refuse the rest."""
        with self._lock:
            self._closed = True
            lives, self._lives = self._lives, {}
        here = asyncio.get_running_loop()
        for loop, (connection, life) in lives.items():
            if loop is here:
                await connection.close()
                await life.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(connection.close(), loop)


async def _until_the_loop_ends(connection: LoopConnection) -> AsyncGenerator[None]:
    """Close the connection when its loop is shut down, which closes every generator of that loop that has begun."""
    try:
        yield
    finally:
        await connection.close()


class LoopConnection:
    """The connections of one event loop.

    Args:
        http: The loop's connections.
        drain_seconds: How long `close` waits for requests under way.
    """

    def __init__(self, http: HttpClient, drain_seconds: float) -> None:
        self.http = http
        self._drain_seconds = drain_seconds
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()
        self._until_closing: set[asyncio.Timeout] = set()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    @contextlib.contextmanager
    def call(self) -> Generator[None]:
        """Count a call as under way, so that `close` waits for it.

        Raises:
            StoreClosed: `close` was called.
        """
        if self.closed:
            raise StoreClosed("the client was closed")
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def in_turn(self, request: Coroutine[Any, Any, T]) -> T:
        """Await a request when fewer than many are under way."""
        try:
            await self._slots.acquire()
        except BaseException:
            request.close()
            raise
        try:
            return await request
        finally:
            self._slots.release()

    async def until_closing(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work, which is cancelled if the connections are closed meanwhile.

        It runs in its caller's task, so that a cancellation reaches it, however late it comes.

        Raises:
            StoreClosed: They were.
        """
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._until_closing.add(scope)
                try:
                    return await work
                finally:
                    self._until_closing.discard(scope)
        except TimeoutError as error:
            if scope.expired():
                raise StoreClosed("the client was closed") from error
            raise

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin work that nobody waits for but `close`."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def pause(self, seconds: float) -> bool:
        """Sleep; False if the connections are closed meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        return not self.closed

    async def close(self) -> None:
        """Cut off what waits, let other requests end within bounds, and close the connections."""
        self._closing.set()
        while self._until_closing:
            self._until_closing.pop().reschedule(asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._drain_seconds)
        if self._background:
            await asyncio.wait(self._background, timeout=self._drain_seconds)
        await self.http.close()
