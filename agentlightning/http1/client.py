"""Connections to servers, kept for a while after each answer."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import cached_property
from typing import Final

from agentlightning.http1.answer import Answer
from agentlightning.http1.connection import Connection
from agentlightning.http1.race import socket_to
from agentlightning.http1.server import Address, Server

_IDLE_SECONDS: Final = 4.0
"""Less than the 5 s after which uvicorn closes: a request should not meet a closing socket."""
_BODILESS: Final = frozenset({"GET", "HEAD", "DELETE"})


class ConnectTimeout(TimeoutError):
    """Nobody took the connection."""


class HttpClient:
    """The connections of one event loop; made inside it.

    Args:
        connect_seconds: How long a connection may take to be made.
    """

    def __init__(self, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._idle: defaultdict[Address, deque[Connection]] = defaultdict(deque)
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    async def request(
        self,
        server: Server,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        repeatable: bool = False,
        seconds: float | None = None,
    ) -> Answer:
        """Send a request; returns once the answer's head is there. Who is cancelled closes the connection.

        Args:
            server: Who is asked.
            method: HTTP's method.
            target: The encoded path and query.
            headers: What is said beside host and length, in lower case.
            body: The body.
            repeatable: Whether it may be sent again, where a kept connection ends before anything of an answer came.
            seconds: How long the whole answer may take; None where that is the caller's affair.

        Raises:
            ConnectTimeout: Nobody took the connection.
            TimeoutError: The answer took too long; reading it may raise this, too.
            OSError: It could not be made, or it broke.
            ValueError: The request cannot be sent.
        """
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("these connections belong to another event loop: each needs a client of its own")
        message = _head_of(server, method, target, headers, body) + body
        deadline = None if seconds is None else self._loop.time() + seconds
        kept = self._taken(server.address)
        if kept is not None:
            try:
                return await kept.ask(message, to_head=method == "HEAD", deadline=deadline)
            except ConnectionError:
                if not repeatable or not kept.silent:
                    raise
        connection = await self._connected(server.address, deadline)
        return await connection.ask(message, to_head=method == "HEAD", deadline=deadline)

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        ends = [connection.ended for connection in self._open]
        for connection in self._open:
            connection.abort()
        if ends:
            await asyncio.wait(ends)

    def _keep(self, connection: Connection) -> None:
        connection.idle_since = self._loop.time()
        self._idle[connection.address].append(connection)
        if self._sweep is None and not self._closed:
            self._sweep = self._loop.call_later(_IDLE_SECONDS, self._close_idle)

    def _taken(self, address: Address) -> Connection | None:
        idle = self._idle[address]
        while idle:
            connection = idle.pop()
            if connection.usable and self._loop.time() - connection.idle_since < _IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connected(self, address: Address, deadline: float | None) -> Connection:
        left = self._connect_seconds if deadline is None else deadline - self._loop.time()
        seconds = min(left, self._connect_seconds)
        try:
            async with asyncio.timeout(seconds):
                connection = await self._made(*address)
        except TimeoutError as error:
            raise ConnectTimeout(f"timeout: nobody takes a connection within {seconds:g} s") from error
        if self._closed:
            connection.abort()
            await connection.ended
            raise ConnectionAbortedError("the connections were closed")
        return connection

    async def _made(self, host: str, port: int, tls: bool) -> Connection:
        def protocol() -> Connection:
            return Connection(Address(host, port, tls), self._open, self._keep)

        context = self._tls if tls else None
        if ":" in host or host.replace(".", "").isdecimal():
            return (await self._loop.create_connection(protocol, host, port, ssl=context))[1]
        found, name = await socket_to(host, port), host if tls else None
        return (await self._loop.create_connection(protocol, sock=found, ssl=context, server_hostname=name))[1]

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

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


def _head_of(server: Server, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    said = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    checked = said + target
    if checked.count("\n") != len(headers) or checked.count("\r") != len(headers) or "\0" in checked:
        raise ValueError("a header of more than one line cannot be sent")
    if body or method not in _BODILESS:
        said = f"{said}content-length: {len(body)}\r\n"
    if server.user is not None and "authorization" not in headers:
        said = f"{said}authorization: {server.user}\r\n"
    try:
        return f"{method} {target} HTTP/1.1\r\n{server.lines}{said}\r\n".encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a header with {error.object[error.start]!r}, which is not Latin-1, cannot be sent"
        ) from error
