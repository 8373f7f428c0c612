"""Chat Completions and Completions: the backend's own APIs, which pass through."""

from __future__ import annotations

from typing import Any

from agentlightning.errors import InvalidAnswer
from agentlightning.llm_proxy.dialects.chat import wants_usage
from agentlightning.llm_proxy.dialects.chat_stream import without_usage_chunk
from agentlightning.llm_proxy.reply import Reply
from agentlightning.llm_proxy.sse import error_event

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
        """Return the backend's answer; a page of some server between is none, whatever its status."""
        if reply.status < 400 and not reply.body.lstrip().startswith(b"{"):
            beginning = reply.body[:200].decode(errors="replace")
            raise InvalidAnswer(f"the backend's answer is none of a model: {beginning!r}")
        return reply

    def view(self) -> PlainView:
        """Return how the client sees the backend's stream."""
        return PlainView(whole=wants_usage(self.request))


class PlainView:
    """The backend's stream as it is; see `View`.

    Args:
        whole: Whether the usage is part of it, for which the gateway asks in any case.
    """

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def of(self, events: bytes) -> bytes:
        """Return the events that the client is to see."""
        return events if self._whole else without_usage_chunk(events)

    def end(self) -> bytes:
        """Return nothing: the backend has said all."""
        return b""

    def error(self, message: str, code: str) -> bytes:
        """Return the event that says that the stream failed."""
        return error_event(message, code)
