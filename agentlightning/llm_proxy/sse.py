"""Server-sent events as bytes: where they end, and the JSON in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from agentlightning._internal.json_text import read_json
from agentlightning.errors import InvalidAnswer

_BLANK_LINES: Final = (b"\n\n", b"\n\r\n")
_LONGEST_CUT: Final = 2
_EVENT: Final = re.compile(rb".*?\n\r?\n|.+", re.DOTALL)
_DONE: Final = b"[DONE]"
_LARGEST_EVENT: Final = 64 << 20
"""Bytes of an event: a prompt of a million tokens, named in full, is a tenth of it."""
_SLICE: Final = 1 << 16

Json = dict[str, Any]


class EventSplitter:
    """Cuts a stream, which comes in any pieces, behind its events.

    Args:
        largest: How many bytes the beginning of an event may have whose end has not come.
    """

    def __init__(self, largest: int = _LARGEST_EVENT) -> None:
        self._largest = largest
        self._size = 0
        self._pieces: list[bytes] = []
        self._last = b""  # bytes of them: the end of an event may be cut in two

    @property
    def rest(self) -> bytes:
        """What was not returned: the beginning of an event whose end has not come."""
        return b"".join(self._pieces)

    def feed(self, data: bytes) -> bytes:
        """Return the events that are complete by now and were not returned before, as they came.

        Raises:
            InvalidAnswer: An event is too large.
        """
        if not self._pieces and data.endswith(_BLANK_LINES[0]):
            return data  # as most backends send them
        seen = self._last + data
        ends = [position + len(mark) for mark in _BLANK_LINES if (position := seen.rfind(mark)) >= 0]
        events = b""
        if ends:
            cut = max(ends) - len(self._last)
            events, data = b"".join((*self._pieces, data[:cut])), data[cut:]
            self._pieces, self._size, seen = [], 0, data
        if data:
            self._pieces.append(data)
        self._size += len(data)
        if self._size > self._largest:
            self._pieces.insert(0, events)  # nobody gets them any more, but the record has them
            raise InvalidAnswer(f"the backend sends an event of more than {self._largest} bytes")
        self._last = seen[-_LONGEST_CUT:]
        return events


def split_events(events: bytes) -> list[bytes]:
    """Return complete events one by one, as they came."""
    return _EVENT.findall(events)


def read_stream(body: bytes) -> list[Json]:
    """Return the JSON objects in a stream; an event without data or with the usual `[DONE]` holds none.

    What stands behind the last complete event counts if it can be read: the stream may have been cut off there.

    Raises:
        ValueError: A complete event holds something else.
    """
    return [each for objects in read_slices(body) for each in objects]


def read_slices(body: bytes) -> Iterator[list[Json]]:
    """Read a stream as `read_stream` does, a bounded part at a time: the objects of the next events."""
    splitter = EventSplitter(largest=len(body))
    for start in range(0, len(body), _SLICE):
        yield _objects(splitter.feed(body[start : start + _SLICE]))
    with suppress(ValueError):
        yield _objects(splitter.rest)


def error_event(message: str, code: str) -> bytes:
    """Return the event with which a stream says that it failed, as OpenAI's clients understand it."""
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def _objects(events: bytes) -> list[Json]:
    # All at once: reading thousands of small texts one by one takes twice as long.
    values: list[Any] = read_json(b"[" + b",".join(_payloads(events)) + b"]")
    for value in values:
        if not isinstance(value, dict):
            raise ValueError(f"an event holds no JSON object but {str(value)[:80]}")
    return values


def _payloads(events: bytes) -> Iterator[bytes]:
    lines: list[bytes] = []
    for line in [*events.splitlines(), b""]:
        if line.startswith(b"data:"):
            lines.append(line[5:].strip())
        elif not line:
            payload = b"\n".join(lines)
            lines = []
            if payload and payload != _DONE:
                yield payload
