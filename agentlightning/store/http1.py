"""HTTP/1.1 with one server: as much of it as a store's client needs.

What a general client does for each request takes four times as long. Messages are read by httptools, as the servers'.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Mapping
from typing import Final, NamedTuple

import httptools
from yarl import URL

_KEEP_ALIVE: Final = 4.0
"""Seconds; less than a server keeps idle connections, so that no request is sent into one that is being closed."""
_HEAD_START: Final = 0.25
"""Seconds that one address of a name has before the next is tried beside it."""
_CLOSE_SECONDS: Final = 2.0
"""How long a server has to say goodbye."""


class Answer(NamedTuple):
    """What a server answered; the names of headers are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class HttpClient:
    """The connections of one event loop to one server.

    Args:
        root: Where the server is; user and password in it are sent along, a path is not.
        headers: What is sent with each request.
        connection_timeout: Seconds a connection may take to be made.
    """

    def __init__(self, root: URL, headers: Mapping[str, str], connection_timeout: float) -> None:
        assert root.host is not None
        assert root.port is not None
        self._place: Final = root.host, root.port
        self._tls = ssl.create_default_context() if root.scheme == "https" else None
        self._connection_timeout = connection_timeout
        self._head_start = None if ":" in root.host or root.host.replace(".", "").isdecimal() else _HEAD_START
        said = {"host": root.host_port_subcomponent or "", "accept": "*/*", **headers}
        if root.user is not None:
            secret = b64encode(f"{root.user}:{root.password or ''}".encode()).decode()
            said.setdefault("authorization", f"Basic {secret}")
        self._headers = "".join(_line(name, value) for name, value in said.items())
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._closed = False

    async def request(self, verb: str, target: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Answer:
        """Send a request and return its answer, whatever its status; who is cancelled closes the connection.

        Raises:
            TimeoutError: The answer took longer than `timeout` seconds.
            OSError: There is no connection, or it ended before the answer did.
        """
        head = f"{verb} {target} HTTP/1.1\r\n{self._headers}"
        for name, value in headers.items():
            head += _line(name, value)
        if body or verb != "GET":
            head += f"content-length: {len(body)}\r\n"
        message = f"{head}\r\n".encode("latin-1")
        connection, deadline = self._take_idle(), asyncio.get_running_loop().time() + timeout
        if connection is None:
            connection = await self._connect(timeout)
        try:
            answer = await connection.exchange(message, body, deadline)
        except BaseException:
            connection.abort()
            raise
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._closed = True
        self._idle.clear()
        ends = [connection.close() for connection in self._open]
        if ends:
            await asyncio.wait(ends, timeout=_CLOSE_SECONDS)
        for connection in self._open:
            connection.abort()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_seconds() < _KEEP_ALIVE:
                return connection
            connection.close()
        return None

    async def _connect(self, timeout: float) -> _Connection:
        loop = asyncio.get_running_loop()
        host, port = self._place
        try:
            async with asyncio.timeout(min(timeout, self._connection_timeout)):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._open), host, port, ssl=self._tls, happy_eyeballs_delay=self._head_start
                )
        except TimeoutError:
            raise TimeoutError(f"timeout: no connection to {host}:{port}") from None
        if self._closed:
            connection.abort()
            raise ConnectionAbortedError("the connections were closed")
        return connection


class _Connection(asyncio.Protocol):
    """A connection, on which one request is under way at most.

    Args:
        everyone: The open connections, this one among them until it ends.
    """

    def __init__(self, everyone: set[_Connection]) -> None:
        self._loop = asyncio.get_running_loop()
        self._everyone = everyone
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._waiter: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._ends_with_connection = False
        self._last_used = self._loop.time()
        self.reusable = True

    async def exchange(self, message: bytes, body: bytes, deadline: float) -> Answer:
        """Send a request and return its answer."""
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(deadline, self._fail, "timeout: the answer did not come in time", TimeoutError)
        try:
            self._transport.writelines((message, body))
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def idle_seconds(self) -> float:
        """Return how long ago its last answer came."""
        return self._loop.time() - self._last_used

    def close(self) -> asyncio.Future[None]:
        """Begin to close; returns what is done once it is closed."""
        self.reusable = False
        self._transport.close()
        return self._end

    def abort(self) -> None:
        """Close at once."""
        self.reusable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._everyone.add(self)

    def data_received(self, data: bytes) -> None:
        """Read a piece of an answer."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"what the server sent is no answer: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._everyone.discard(self)
        self.reusable = False
        if exc is None and self._ends_with_connection:
            self.on_message_complete()
        self._fail(f"the server closed the connection: {exc or 'it sent no answer'}")
        if not self._end.done():
            self._end.set_result(None)

    def on_message_begin(self) -> None:
        """An answer begins."""
        self._headers, self._parts = {}, []
        if self._waiter is None or self._waiter.done():
            self.reusable = False  # nobody asked for it

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The answer's head is there."""
        self._ends_with_connection = not self._headers.keys() & {b"content-length", b"transfer-encoding"}

    def on_body(self, body: bytes) -> None:
        """A piece of the answer's body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The answer is there, unless it only announces one."""
        status = self._parser.get_status_code()
        self._ends_with_connection = False
        if status < 200 or self._waiter is None or self._waiter.done():
            return
        self._last_used = self._loop.time()
        self.reusable = self.reusable and self._parser.should_keep_alive()
        self._waiter.set_result(Answer(status, self._headers, b"".join(self._parts)))

    def _fail(self, reason: str, kind: type[OSError] = ConnectionError) -> None:
        self.reusable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(kind(reason))


def _line(name: str, value: str) -> str:
    return f"{name}: {value}\r\n"
