"""What an attempt sent to the gateway and what it got, as it went over the wire, and its form in the journal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and its answer, untouched.

    Attributes:
        rollout_id: The rollout that called.
        attempt_id: The attempt that called.
        trace_id: 32 hexadecimal characters; with `span_id` it makes writing the call twice harmless.
        path: What was called, such as `/chat/completions`: it says how the bodies are to be read.
        start_ns: Unix nanoseconds at which the request was there.
        end_ns: Unix nanoseconds at which the answer was complete.
        status: HTTP status of the answer.
        request: The request's body.
        response: The answer's body; of a stream, what the backend had sent.
        streamed: Whether the answer is a stream of events.
        first_byte_ns: Unix nanoseconds at which a stream's first piece was there, or None.
        broken: Why a stream ended before its end; None for all other answers.
        asked: The body of what the backend was asked for, if that is another than the client's request.
    """

    rollout_id: str
    attempt_id: str
    trace_id: str
    path: str
    start_ns: int
    end_ns: int
    status: int
    request: bytes
    response: bytes
    streamed: bool = False
    first_byte_ns: int | None = None
    broken: str | None = None
    asked: bytes = b""

    @property
    def span_id(self) -> str:
        """The id of the one span of this call, 16 hexadecimal characters."""
        return self.trace_id[16:]

    def to_bytes(self) -> bytes:
        """Return the journal's form: a line of JSON, then the bodies as they are."""
        head = {
            "rollout_id": self.rollout_id,
            "attempt_id": self.attempt_id,
            "trace_id": self.trace_id,
            "path": self.path,
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "status": self.status,
            "streamed": self.streamed,
            "first_byte_ns": self.first_byte_ns,
            "broken": self.broken,
            "sizes": [len(body) for body in self._bodies],
        }
        return b"".join((json.dumps(head).encode(), b"\n", *self._bodies))

    @property
    def _bodies(self) -> tuple[bytes, bytes, bytes]:
        return self.request, self.asked, self.response


def read_exchanges(data: bytes) -> Iterator[Exchange]:
    """Read what `to_bytes` wrote, end to end.

    An unfinished record at the end is left out: its writer was killed before the answer left, so nobody has seen it.

    Raises:
        ValueError: What follows is no record.
    """
    position = 0
    while (newline := data.find(b"\n", position)) >= 0:
        head, (request_size, asked_size, response_size) = _read_head(data[position:newline], position)
        start = newline + 1
        asked, response = start + request_size, start + request_size + asked_size
        position = response + response_size
        if position > len(data):
            return
        yield replace(head, request=data[start:asked], asked=data[asked:response], response=data[response:position])


def _read_head(line: bytes, position: int) -> tuple[Exchange, tuple[int, int, int]]:
    """Return an exchange without its bodies, and their sizes."""
    try:
        head: dict[str, Any] = json.loads(line)
        request_size, asked_size, response_size = head.pop("sizes")
        if min(request_size, asked_size, response_size) < 0:
            raise ValueError("a size is negative")
        return Exchange(**head, request=b"", response=b""), (request_size, asked_size, response_size)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"no record of a model call at byte {position}: {error!r}") from error
