"""HTTP/1.1 to backends: requests that are bytes, answers as they come, connections that are kept for the next one.

A general client spends more on a small call than all else that the gateway does with it. This one has no cookies,
redirects or proxies, and asks for no compression; deadlines are its callers' affair, but for that of connecting.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from base64 import b64encode
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote, urlsplit

import httptools

_IDLE_SECONDS: Final = 4.0  # below the 5 s after which uvicorn closes: a request must not meet a closing socket
_CONNECT_SECONDS: Final = 10.0
_UNREAD_BYTES: Final = 1 << 20
"""How much of a stream may wait for its reader before the backend has to."""
_HEAD_BYTES: Final = 1 << 18
"""How much a backend may send that is no body: an answer's head, or what stands between two pieces."""
_WITHOUT_BODY: Final = frozenset({204, 304})
_BODILESS: Final = frozenset({"GET", "HEAD", "DELETE"})
_INFLATED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_OR_ZLIB: Final = 47


class BackendGone(ConnectionError):
    """The connection ended before the answer did."""


class ConnectTimeout(OSError):
    """Nobody took the connection."""


class _Address(NamedTuple):
    host: str
    port: int
    tls: bool


class Answer:
    """What a backend answers, whose head is there.

    Attributes:
        status: HTTP status.
        headers: Names and values, as bytes that are read as Latin-1.
    """

    def __init__(self, connection: _Connection, status: int, headers: list[tuple[str, str]]) -> None:
        self.status = status
        self.headers = headers
        self._connection = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self._whole = False
        self._complete = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def media_type(self) -> str:
        """What kind of body it has, such as `text/event-stream`."""
        return self.header("content-type").partition(";")[0].strip().lower()

    def header(self, name: str) -> str:
        """Return a header's value, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            BackendGone: It broke off.
        """
        self._whole = True
        self._connection.resume()
        while not self._complete and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error
        return self._taken()

    async def read_some(self) -> bytes:
        """Return what has come of the body, waiting for it if need be; nothing at the end.

        Raises:
            BackendGone: It broke off.
        """
        while not self._pieces and not self._complete and self._error is None:
            await self._wait()
        if self._error is not None and not self._pieces:
            raise self._error
        self._connection.resume()
        return self._taken()

    def close(self) -> None:
        """Leave it; the connection goes, too, unless the answer is complete."""
        if not self._complete:
            self._connection.abort()

    def add(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(piece)
        self._size += len(piece)
        if not self._whole:
            if self._size > _UNREAD_BYTES:
                self._connection.pause()
            self._wake()

    def end(self) -> None:
        """Take note that this was all."""
        self._complete = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Tell the reader, behind what has come, that nothing more will."""
        if not self._complete and self._error is None:
            self._error = error
            self._wake()

    def _taken(self) -> bytes:
        pieces, self._pieces, self._size = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class BackendHttp:
    """Connections to backends; made inside the event loop that uses it."""

    def __init__(self) -> None:
        self._idle: defaultdict[_Address, deque[_Connection]] = defaultdict(deque)
        self._open: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def request(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a request to an encoded URL; returns once the answer's head is there.

        Raises:
            ConnectTimeout: Nobody took the connection.
            OSError: It could not be made, or it broke.
            ValueError: A header cannot be sent.
        """
        address, head, user = _beginning_of(method, url)
        lines = [head, *map(_line, headers.items())]
        if body or method not in _BODILESS:
            lines.append(f"content-length: {len(body)}\r\n")
        if user is not None and "authorization" not in map(str.lower, headers):
            lines.append(f"authorization: Basic {user}\r\n")
        lines.append("\r\n")
        connection = self._reused(address) or await self._connected(address)
        try:
            return await connection.ask("".join(lines).encode() + body, without_body=method == "HEAD")
        except BaseException:
            connection.abort()
            raise

    async def close(self) -> None:
        """Close all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
        ends = [connection.ended for connection in self._open]
        for connection in self._open:
            connection.abort()
        if ends:
            await asyncio.wait(ends)

    def keep(self, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        connection.idle_since = self._loop.time()
        self._idle[connection.address].append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(_IDLE_SECONDS, self._close_idle)

    def begun(self, connection: _Connection) -> None:
        """Take note of a new connection."""
        self._open.add(connection)

    def ended(self, connection: _Connection) -> None:
        """Take note of a connection's end."""
        self._open.discard(connection)

    def _reused(self, address: _Address) -> _Connection | None:
        idle = self._idle[address]
        while idle:
            connection = idle.pop()
            if connection.usable and self._loop.time() - connection.idle_since < _IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connected(self, address: _Address) -> _Connection:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self, address),
                    address.host,
                    address.port,
                    ssl=_tls() if address.tls else None,
                    happy_eyeballs_delay=0.25,
                )
        except TimeoutError as error:
            raise ConnectTimeout(f"nobody takes a connection within {_CONNECT_SECONDS:g} s") from error
        return connection

    def _close_idle(self) -> None:
        self._sweep = None
        now = self._loop.time()
        for address, idle in list(self._idle.items()):
            while idle and (not idle[0].usable or now - idle[0].idle_since >= _IDLE_SECONDS):
                idle.popleft().abort()
            if not idle:
                del self._idle[address]
        if self._idle:
            self._sweep = self._loop.call_later(_IDLE_SECONDS, self._close_idle)


class _Connection(asyncio.Protocol):
    """A connection to a backend, for one request after the other.

    Attributes:
        address: Where it leads.
        idle_since: Since when, by the loop's clock, it waits for the next request.
        usable: Whether it can take one.
        ended: Done when it is closed.
    """

    def __init__(self, pool: BackendHttp, address: _Address) -> None:
        self.address = address
        self.idle_since = 0.0
        self.usable = False
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._parser: Any = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_lf_after_cr=True, lenient_optional_cr_before_lf=True
        )  # backends are not all exact, and nobody stands between them and us
        self._transport: asyncio.Transport | None = None
        self._head: asyncio.Future[Answer] | None = None
        self._answer: Answer | None = None
        self._headers: list[tuple[str, str]] = []
        self._without_body = False
        self._interim = False
        self._until_end = False
        self._unused = 0
        self._paused = False
        self._inflater: Any = None

    async def ask(self, request: bytes, *, without_body: bool) -> Answer:
        assert self._transport is not None
        self._without_body = without_body
        self.usable = False
        self._head = self._loop.create_future()
        if self._transport.is_closing():
            raise BackendGone("the connection is closed")
        self._transport.write(request)
        return await self._head

    def abort(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.begun(self)

    def data_received(self, data: bytes) -> None:
        self._unused += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(BackendGone(f"it sends what is no HTTP: {error.__context__ or error}"))
        else:
            if self._unused > _HEAD_BYTES:
                self._break(BackendGone(f"it sends more than {_HEAD_BYTES} bytes that are no answer's body"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._pool.ended(self)
        if self._answer is not None and self._until_end and exc is None:
            self._answer.end()
        self._fail(BackendGone(f"it closed the connection{f' ({exc})' if exc is not None else ''}"))
        if not self.ended.done():
            self.ended.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._headers = []
        if self._head is None:
            raise ValueError("nobody asked")  # ends in HttpParserCallbackError

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is None:  # not what follows a body
            self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._unused = 0
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        if self._interim or self._head is None:
            return
        names = {name.lower() for name, _ in self._headers}
        self._until_end = status not in _WITHOUT_BODY and names.isdisjoint({"content-length", "transfer-encoding"})
        self._answer = Answer(self, status, self._headers)
        encoding = self._answer.header("content-encoding").lower()
        self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB) if encoding in _INFLATED else None
        if self._inflater is None and encoding not in ("", "identity"):
            raise ValueError(f"a body in {encoding}, which nobody asked for")
        if not self._head.done():
            self._head.set_result(self._answer)
        if self._without_body:  # the parser waits for one
            self._answer.end()
            self._answer = None
            self.abort()

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        if self._answer is not None:
            self._answer.add(body if self._inflater is None else self._inflater.decompress(body))

    def on_message_complete(self) -> None:
        self._unused = 0
        if self._interim or self._answer is None:
            return
        answer, self._answer, self._head = self._answer, None, None
        answer.end()
        assert self._transport is not None
        reusable = self._parser.should_keep_alive() and not self._until_end
        if reusable and not self._transport.is_closing() and not self._transport.get_write_buffer_size():
            self.resume()
            self.usable = True
            self._pool.keep(self)
        else:
            self._transport.close()

    def _break(self, error: Exception) -> None:
        self._fail(error)
        self.abort()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None:
            self._answer.fail(error)
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)


def _line(header: tuple[str, str]) -> str:
    name, value = header
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"the header {name} has more than one line: it cannot be sent")
    return f"{name}: {value}\r\n"


@lru_cache(maxsize=1024)
def _beginning_of(method: str, url: str) -> tuple[_Address, str, str | None]:
    """Return whom a request goes to, how it begins, and the credentials in its URL."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is no address of a server")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {path} HTTP/1.1", f"host: {parts.netloc.rpartition('@')[2]}", "accept: */*"]
    lines += ["accept-encoding: identity", "user-agent: agentlightning", ""]
    user = None
    if parts.username is not None:
        user = b64encode(f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()).decode()
    return _Address(parts.hostname, port, parts.scheme == "https"), "\r\n".join(lines), user


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
