"""A backend's stream of chat chunks as the events of another API, each made from what has come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from agentlightning.errors import InvalidAnswer
from agentlightning.llm_proxy.dialects.blocks import BlockReader
from agentlightning.llm_proxy.dialects.chat_stream import holds_end
from agentlightning.llm_proxy.sse import read_stream

Json = dict[str, Any]

OTHER_FORM: Final = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)
"""What reading an answer raises that is not of the expected form: a backend may answer anything."""


class Translator(Protocol):
    """Makes events of one answer from its chunks."""

    reader: BlockReader

    @property
    def finished(self) -> bool:
        """Whether the model ended its answer."""
        ...

    def feed(self, chunk: Json) -> list[Json]:
        """Return the events that a chunk makes."""
        ...

    def finish(self) -> list[Json]:
        """Return the events that end the answer."""
        ...

    def error(self, message: str, code: str) -> list[Json]:
        """Return the events that say that the answer failed."""
        ...


class TranslatedView:
    """How a client of another API sees the backend's stream.

    Args:
        translator: Makes the events.
        on_finish: Called when the answer is whole, before its last events are made.
    """

    def __init__(self, translator: Translator, on_finish: Callable[[], None]) -> None:
        self._translator = translator
        self._on_finish = on_finish
        self._ended = False
        self._readable = True

    def of(self, events: bytes) -> bytes:
        """Return what the client is to see of some events of the backend's; see `View`."""
        if self._ended:
            return b""
        made: list[Json] = []
        try:
            for chunk in read_stream(events):
                if chunk.get("error"):
                    return _encoded(made) + self._fail_as_told(chunk["error"])
                made += self._translator.feed(chunk)
        except OTHER_FORM as error:
            raise self._no_chat(error) from error
        return _encoded(made) + (self.end() if holds_end(events) else b"")

    def end(self) -> bytes:
        """Return the last events, if they were not made before; see `View`."""
        if self._ended:
            return b""
        if not self._translator.finished:
            return self._fail("the stream ended before the answer: it names no finish reason", "incomplete_answer")
        try:
            self._on_finish()
            last = self._translator.finish()
        except OTHER_FORM as error:
            raise self._no_chat(error) from error
        self._ended = True
        return _encoded(last)

    def error(self, message: str, code: str) -> bytes:
        """Return the event that says that the stream failed; nothing follows it."""
        if self._translator.finished and self._readable:
            with suppress(InvalidAnswer):
                return self.end()  # only the backend's farewell is missing
        return self._fail(message, code)

    def _fail(self, message: str, code: str) -> bytes:
        if self._ended:
            return b""
        self._ended = True
        return _encoded(self._translator.error(message, code))

    def _fail_as_told(self, error: Any) -> bytes:
        known = cast("Json", error) if isinstance(error, dict) else {"message": str(error)}
        return self._fail(str(known.get("message") or known), str(known.get("code") or "backend_failed"))

    def _no_chat(self, error: Exception) -> InvalidAnswer:
        self._readable = False
        return InvalidAnswer(f"the backend's stream is none of a chat: {type(error).__name__}: {error}")


def _encoded(events: Iterable[Json]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)
