"""Chat Completions and Completions: the backend's own APIs, which pass through."""

from __future__ import annotations

import re
from typing import Any, Final

from agentlightning.errors import InvalidAnswer
from agentlightning.llm_proxy.dialects.chat import wants_usage
from agentlightning.llm_proxy.dialects.chat_stream import holds_end, without_usage_chunk
from agentlightning.llm_proxy.reply import Reply
from agentlightning.llm_proxy.sse import error_event, read_stream

_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[')
_FINISHED: Final = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
"""Found outside of texts only, in which quotation marks are escaped; so is the one above."""
_EVENT_ENDS: Final = (b"\n\n", b"\n\r\n")

Json = dict[str, Any]


class PlainCall:
    """A call that goes to the backend as it is; see `Call`.

    Args:
        path: Where the backend serves it.
        payload: The client's request.
    """

    translated: bool = False

    def __init__(self, path: str, payload: Json) -> None:
        self.path = path
        self.request: Json = payload

    def answer(self, reply: Reply) -> Reply:
        """Return the backend's answer; neither a page of some server between nor half of one is any."""
        if reply.status < 400 and not _is_of_model(reply.body):
            beginning = reply.body[:200].decode(errors="replace")
            raise InvalidAnswer(f"the backend's answer is none of a model: {beginning!r}")
        return reply

    def view(self) -> PlainView:
        """Return how the client sees the backend's stream."""
        n = self.request.get("n")
        return PlainView(whole=wants_usage(self.request), choices=n if isinstance(n, int) else 1)


class PlainView:
    """The backend's stream as it is; see `View`.

    Args:
        whole: Whether the usage is part of it, for which the gateway asks in any case.
        choices: How many answers must have ended before a stream that does not say that it ends; 0 expects nothing.
    """

    def __init__(self, *, whole: bool, choices: int = 0) -> None:
        self._whole = whole
        self._unfinished = choices

    def of(self, events: bytes) -> bytes:
        """Return the events that the client is to see."""
        if self._unfinished > 0:
            if not events.endswith(_EVENT_ENDS):  # the stream ended in the midst of it
                events = _completed(events)
            self._unfinished = 0 if holds_end(events) else self._unfinished - len(_FINISHED.findall(events))
        return events if self._whole else without_usage_chunk(events)

    def end(self) -> bytes:
        """Return nothing if the backend has said all: clients take a stream that just ends for a whole answer."""
        if self._unfinished <= 0:
            return b""
        return self.error("the stream ended before the answer: it names no finish reason", "incomplete_answer")

    def error(self, message: str, code: str) -> bytes:
        """Return the event that says that the stream failed."""
        return error_event(message, code)


def _is_of_model(body: bytes) -> bool:
    """Whether a body looks like an answer; to read all of it takes longer than all else that is done with a call."""
    text = body.strip()
    return text.startswith(b"{") and text.endswith(b"}") and _CHOICES.search(text) is not None


def _completed(event: bytes) -> bytes:
    """Return the last event of a stream, behind which no blank line came, if it can be read."""
    try:
        readable = holds_end(event) or read_stream(event)
    except (ValueError, RecursionError):
        readable = False
    return event + b"\n\n" if readable else b""
