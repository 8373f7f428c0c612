"""A backend's stream on its way to the client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from agentlightning.errors import BackendTimeout, InvalidAnswer, ModelError
from agentlightning.llm_proxy.answers import code_of, refusal
from agentlightning.llm_proxy.dialects.call import View
from agentlightning.llm_proxy.dialects.chat_stream import holds_end, says_nothing
from agentlightning.llm_proxy.patience import Patience
from agentlightning.llm_proxy.reply import EventStream, Reply
from agentlightning.llm_proxy.sse import EventSplitter, split_events
from agentlightning.serving import while_connected

_LARGEST: Final = 256 << 20
"""Bytes of a stream: ten times what 100,000 tokens with their log-probabilities take."""


@dataclass(slots=True)
class Received:
    """What came of a stream, but for comments.

    Attributes:
        pieces: The bytes, in the pieces in which they came.
        first_byte_ns: Unix nanoseconds at which the first of them was there that says something, or None: many backends
            begin with the role alone, before the model has begun.
        broken: Why the stream ended before its end, or None.
        size: How many bytes there are.
    """

    pieces: list[bytes] = field(default_factory=list[bytes])
    first_byte_ns: int | None = None
    broken: str | None = None
    size: int = 0

    def add(self, piece: bytes) -> None:
        """Append what has come.

        Raises:
            InvalidAnswer: The stream is too large.
        """
        if self.first_byte_ns is None and not says_nothing(piece):
            self.first_byte_ns = time.time_ns()
        self.size += len(piece)
        if self.size > _LARGEST:
            raise InvalidAnswer(f"the backend sends a stream of more than {_LARGEST} bytes")
        self.pieces.append(piece)


class StreamedResponse(Response):
    """Sends a stream's events on as they come, and closes it as soon as the client leaves.

    Args:
        stream: The backend's answer.
        view: How the client sees the events.
        on_end: Called once with what was received: before the client has the last event, or when the stream broke.
            None keeps nothing.
        on_close: Called last, whatever became of the stream.
        timeout: How many seconds the client may take nothing, and the backend send nothing but comments.
        begun: Whether status and headers have left already.
    """

    def __init__(
        self,
        stream: EventStream,
        view: View,
        on_end: Callable[[Received], None] | None,
        on_close: Callable[[], None],
        timeout: float,
        *,
        begun: bool = False,
    ) -> None:
        # Not Starlette's constructor, which would promise the length of a body.
        self.status_code = stream.status
        self.background = None
        self._stream = stream
        self._view = view
        self._on_end = on_end
        self._on_close = on_close
        self._timeout = timeout
        self._begun = begun
        self._received = Received()
        self._splitter = EventSplitter()
        self._quiet_since: float | None = None
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI."""
        broken = "the gateway was stopped before the answer was complete"
        try:
            if await while_connected(Request(scope, receive), self._relay(send)) is None:
                broken = "client_left: the client left before the answer was complete"
        finally:
            self._stream.close()
            try:
                self._end(broken)
            finally:
                self._on_close()

    async def _relay(self, send: Send) -> bool:
        limit = asyncio.timeout(None)
        patience = Patience(self._timeout, lambda: limit.reschedule(0.0))

        async def patiently(message: Message) -> None:
            patience.begin()
            await send(message)
            patience.end()

        try:
            async with limit:
                await self._relay_all(patiently)
        except TimeoutError:
            if not limit.expired():
                raise
            self._end(f"client_left: the client took nothing of the answer for {self._timeout:g} s")
        finally:
            patience.close()
        return True

    async def _relay_all(self, send: Send) -> None:
        if not self._begun:
            self.init_headers(self._stream.headers)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._send_events(send)
            self._end()
        except ModelError as error:
            self._end(str(error))
            await _send(send, self._view.error(str(error), code_of(error)))
        await _send(send, b"", last=True)

    async def _send_events(self, send: Send) -> None:
        while piece := await self._stream.read():
            events = self._splitter.feed(piece)
            self._take(events)
            if events:
                seen = self._view.of(events)
                if holds_end(events):
                    self._end()
                if seen:
                    await _send(send, seen)
        rest = self._splitter.rest
        last = (self._view.of(rest) if rest else b"") + self._view.end()
        self._end()
        if last:
            await _send(send, last)

    def _take(self, events: bytes) -> None:
        if b"data:" in events:
            self._quiet_since = None
            if self._on_end is not None:
                self._received.add(_without_comments(events))
            return
        now = asyncio.get_running_loop().time()
        if self._quiet_since is None:
            self._quiet_since = now
        elif now - self._quiet_since > self._timeout:
            raise BackendTimeout(f"{self._stream.backend} sent nothing but comments for {self._timeout:g} s")

    def _end(self, broken: str | None = None) -> None:
        if not self._ended:
            self._ended = True
            self._received.broken = broken
            if self._on_end is not None:
                if rest := self._splitter.rest:
                    self._received.pieces.append(rest)
                self._on_end(self._received)


class FailedStream(Response):
    """Ends an answer that has begun as a stream, though the backend gave none.

    Args:
        reply: What the backend said instead.
        view: How the client sees a stream's failure.
        timeout: How many seconds the client may take nothing.
    """

    def __init__(self, reply: Reply, view: View, timeout: float) -> None:
        self.background = None
        self._timeout = timeout
        self._event = view.error(*_failure_in(reply))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await _send(send, self._event, last=True)


def refused_stream(reply: Reply) -> Reply:
    """Return what stands for an answer that came whole, though its client waits for a stream."""
    if reply.status >= 400:
        return reply
    error = refusal(502, "the backend answered, but not with the stream that it was asked for", "invalid_answer")
    return replace(error, backend=reply.backend, retries=reply.retries)


def _failure_in(reply: Reply) -> tuple[str, str]:
    """Return message and code of an error in any form that backends give them."""
    code = f"status_{reply.status}"
    try:
        error: Any = json.loads(reply.body)["error"]
        return str(error.get("message") or error), str(error.get("code") or code)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"the backend answered {reply.status}: {reply.body[:1000].decode(errors='replace')}", code


def _without_comments(events: bytes) -> bytes:
    if events.startswith(b":") or b"\n:" in events:
        return b"".join(event for event in split_events(events) if b"data:" in event)
    return events


async def _send(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})
