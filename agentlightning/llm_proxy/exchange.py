"""One model call as it went over the wire, and its form in the journal."""

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
        start_ns: Unix nanoseconds at which the request was there.
        end_ns: Unix nanoseconds at which the answer was complete.
        status: HTTP status of the answer.
        request: The request's body.
        response: The answer's body.
    """

    rollout_id: str
    attempt_id: str
    trace_id: str
    start_ns: int
    end_ns: int
    status: int
    request: bytes
    response: bytes

    @property
    def span_id(self) -> str:
        """The id of the one span of this call, 16 hexadecimal characters."""
        return self.trace_id[16:]

    def to_bytes(self) -> bytes:
        """Return the journal's form: a line of JSON, then both bodies as they are."""
        head = {
            "rollout_id": self.rollout_id,
            "attempt_id": self.attempt_id,
            "trace_id": self.trace_id,
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "status": self.status,
            "sizes": [len(self.request), len(self.response)],
        }
        return b"".join((json.dumps(head).encode(), b"\n", self.request, self.response))


def read_exchanges(data: bytes) -> Iterator[Exchange]:
    """Read what `to_bytes` wrote, end to end.

    An unfinished record at the end is left out: its writer was killed before the answer left, so nobody has seen it.

    Raises:
        ValueError: What follows is no record.
    """
    position = 0
    while (newline := data.find(b"\n", position)) >= 0:
        head, (request_size, response_size) = _read_head(data[position:newline], position)
        middle = newline + 1 + request_size
        position = middle + response_size
        if position > len(data):
            return
        yield replace(head, request=data[newline + 1 : middle], response=data[middle:position])


def _read_head(line: bytes, position: int) -> tuple[Exchange, tuple[int, int]]:
    """Return an exchange without its bodies, and their sizes."""
    try:
        head: dict[str, Any] = json.loads(line)
        request_size, response_size = head.pop("sizes")
        if min(request_size, response_size) < 0:
            raise ValueError("a size is negative")
        return Exchange(**head, request=b"", response=b""), (request_size, response_size)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"no record of a model call at byte {position}: {error!r}") from error
