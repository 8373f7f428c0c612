"""A connection to a server, for one request after the other."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Callable
from typing import Any, Final

import httptools

from agentlightning.http1.answer import Answer
from agentlightning.http1.server import Address

_UNUSED_BYTES: Final = 1 << 18
"""How much a server may send that is no body: an answer's head, or what stands between two pieces."""
_WITHOUT_BODY: Final = frozenset({204, 304})
_INFLATED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_OR_ZLIB: Final = 47


class Connection(asyncio.Protocol):
    """A connection, on which one request is under way at most.

    Args:
        address: See the attribute.
        everyone: The open connections, this one among them until it ends.
        keep: Told that it can take a request again.

    Attributes:
        address: Where it leads.
        idle_since: Since when, by the loop's clock, it waits for the next request.
        ended: Done when it is closed.
    """

    def __init__(self, address: Address, everyone: set[Connection], keep: Callable[[Connection], None]) -> None:
        self.address = address
        self.idle_since = 0.0
        self._everyone = everyone
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._parser: Any = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_lf_after_cr=True, lenient_optional_cr_before_lf=True
        )  # servers are not all exact, and nobody stands between them and us
        self._head: asyncio.Future[Answer] | None = None
        self._answer: Answer | None = None
        self._headers: dict[bytes, bytes] = {}
        self._to_head = False
        self._until_end = False
        self._packed = False
        self._inflater: Any = None
        self._unused = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether it can take a request."""
        return self._head is None and not self._transport.is_closing()

    @property
    def silent(self) -> bool:
        """Whether nothing came since it was asked."""
        return not self._unused

    async def ask(self, request: bytes, *, to_head: bool, deadline: float | None = None) -> Answer:
        """Send a request and return its answer, once its head is there; who is cancelled closes the connection.

        Raises:
            ConnectionError: It ended, or what came is no answer.
            TimeoutError: The deadline, by the loop's clock, passed.
        """
        self._unused = 0
        if self._transport.is_closing():
            raise ConnectionError("the connection is closed")
        head = self._head = self._loop.create_future()
        self._to_head = to_head
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._time_out)
        try:
            self._transport.write(request)
            return await head
        except BaseException:
            if self._head is head:  # else the answer is complete, and the connection may be somebody else's by now
                self.abort()
            raise

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._everyone.add(self)

    def data_received(self, data: bytes) -> None:
        """Read a piece of an answer."""
        self._unused += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"it sends what is no HTTP: {error.__context__ or error}")
        except httptools.HttpParserUpgrade:
            self._break("it changes to a protocol that nobody asked for")
        else:
            if self._unused > _UNUSED_BYTES:
                self._break(f"it sends more than {_UNUSED_BYTES} bytes that are no answer's body")

    def eof_received(self) -> None:
        """The server sends no more."""
        if self._until_end and self._answer is not None and self._took_leave():
            self._finish()
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._everyone.discard(self)
        self._stop_timer()
        self._fail(ConnectionError(f"it closed the connection{f' ({exc})' if exc is not None else ''}"))
        if not self.ended.done():
            self.ended.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """An answer begins."""
        self._headers = {}
        if self._head is None:
            raise ValueError("nobody asked")  # ends in HttpParserCallbackError

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer, or one that follows its body, which nobody needs."""
        if self._answer is None:
            name = name.lower()
            self._headers[name] = b"%b, %b" % (self._headers[name], value) if name in self._headers else value

    def on_headers_complete(self) -> None:
        """The answer's head is there, unless it only announces one."""
        status = self._parser.get_status_code()
        if status < 200 or self._head is None:
            return
        self._unused = 0
        headers = self._headers
        chunked = b"transfer-encoding" in headers and self._is_chunked()
        framed = chunked or b"content-length" in headers
        self._until_end = not framed and status not in _WITHOUT_BODY
        self._packed, self._inflater = b"content-encoding" in headers and self._is_packed(), None
        answer = self._answer = Answer(self._transport, status, headers)
        if not self._head.done():
            self._head.set_result(answer)
        if self._to_head or (framed and status in _WITHOUT_BODY):  # the parser waits for a body
            self._finish()
            self.abort()

    def on_body(self, body: bytes) -> None:
        """A piece of the answer's body."""
        self._unused = 0
        if self._answer is None:
            return
        if self._packed:
            self._inflater = self._inflater or zlib.decompressobj(_GZIP_OR_ZLIB)
            body = self._inflater.decompress(body)
        self._answer.add(body)

    def on_message_complete(self) -> None:
        """The answer is there, unless it only announces one."""
        if self._answer is None:
            return
        self._unused = 0
        self._finish()
        # A server that answers before it has read all of the request may never read it.
        if self._parser.should_keep_alive() and self.usable and not self._transport.get_write_buffer_size():
            self._keep(self)
        else:
            self.abort()

    def _is_chunked(self) -> bool:
        coding = self._headers[b"transfer-encoding"].decode("latin-1").strip().lower()
        if coding != "chunked":
            raise ValueError(f"a body in the transfer encoding {coding}, which nobody asked for")
        return True

    def _is_packed(self) -> bool:
        encoding = self._headers[b"content-encoding"].decode("latin-1").strip().lower()
        if encoding in ("", "identity"):
            return False
        if encoding not in _INFLATED:
            raise ValueError(f"a body in {encoding}, which nobody asked for")
        return True

    def _took_leave(self) -> bool:
        """Whether it is the server who ended the connection; under TLS anyone can cut it, but only it take leave."""
        tls: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            return not tls.read(1)
        except ssl.SSLError:
            return False

    def _finish(self) -> None:
        assert self._answer is not None
        answer, self._answer, self._head = self._answer, None, None
        self._stop_timer()
        if self._inflater is not None and (not self._inflater.eof or self._inflater.unused_data):
            answer.fail(ConnectionError("what it compressed is not whole"))
            self.abort()
        else:
            answer.end()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._fail(TimeoutError("timeout: the answer did not come in time"))
        self.abort()

    def _break(self, reason: str) -> None:
        self._fail(ConnectionError(reason))
        self.abort()

    def _fail(self, error: OSError) -> None:
        if self._answer is not None:
            self._answer.fail(error)
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
