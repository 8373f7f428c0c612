"""A backend's stream on its way to the client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentlightning.errors import ModelError
from agentlightning.llm_proxy.answers import code_of, refusal
from agentlightning.llm_proxy.dialects.call import View
from agentlightning.llm_proxy.dialects.chat_stream import holds_end
from agentlightning.llm_proxy.reply import EventStream, Reply
from agentlightning.llm_proxy.sse import EventSplitter
from agentlightning.serving import while_connected


@dataclass(slots=True)
class Received:
    """What came of a stream.

    Attributes:
        pieces: The bytes, in the pieces in which they came.
        first_byte_ns: Unix nanoseconds at which the first of them was there, or None.
        broken: Why the stream ended before its end, or None.
    """

    pieces: list[bytes] = field(default_factory=list[bytes])
    first_byte_ns: int | None = None
    broken: str | None = None

    def add(self, piece: bytes) -> None:
        """Append what has come."""
        if not self.pieces:
            self.first_byte_ns = time.time_ns()
        self.pieces.append(piece)


class StreamedResponse(Response):
    """Sends a stream's events on as they come, and closes it as soon as the client leaves.

    Args:
        stream: The backend's answer.
        view: How the client sees the events.
        on_end: Called once with what was received: before the client has the last event, or when the stream broke.
            None keeps nothing.
        on_close: Called last, whatever became of the stream.
        begun: Whether status and headers have left already.
    """

    def __init__(
        self,
        stream: EventStream,
        view: View,
        on_end: Callable[[Received], None] | None,
        on_close: Callable[[], None],
        *,
        begun: bool = False,
    ) -> None:
        # Not Starlette's constructor, which would promise the length of a body.
        self.status_code = stream.status
        self.background = None
        self.init_headers(stream.headers)
        self._stream = stream
        self._view = view
        self._on_end = on_end
        self._on_close = on_close
        self._begun = begun
        self._received = Received()
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
        if not self._begun:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._send_events(send)
            self._end()
        except ModelError as error:
            self._end(str(error))
            await _send(send, self._view.error(str(error), code_of(error)))
        await _send(send, b"", last=True)
        return True

    async def _send_events(self, send: Send) -> None:
        splitter = EventSplitter()
        while piece := await self._stream.read():
            if self._on_end is not None:
                self._received.add(piece)
            if events := splitter.feed(piece):
                seen = self._view.of(events)
                if holds_end(events):
                    self._end()
                if seen:
                    await _send(send, seen)
        last = (self._view.of(splitter.rest) if splitter.rest else b"") + self._view.end()
        self._end()
        if last:
            await _send(send, last)

    def _end(self, broken: str | None = None) -> None:
        if not self._ended:
            self._ended = True
            self._received.broken = broken
            if self._on_end is not None:
                self._on_end(self._received)


class FailedStream(Response):
    """Ends an answer that has begun as a stream, though the backend gave none.

    Args:
        reply: What the backend said instead.
        view: How the client sees a stream's failure.
    """

    def __init__(self, reply: Reply, view: View) -> None:
        self.background = None
        self._event = view.error(*_failure_in(reply))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI."""
        await _send(send, self._event, last=True)


def refused_stream(reply: Reply) -> Reply:
    """Return what stands for an answer that came whole, though its client can only be given a stream any more."""
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


async def _send(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})
