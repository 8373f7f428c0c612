"""What an attempt sent to the gateway and what it got, as it went over the wire, and its form in the journal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from agentlightning._internal.json_text import read_json, write_json

_RARE: Final = (
    "backend",
    "retries",
    "request_id",
    "backend_request_id",
    "supersedes",
    "held_ns",
    "weights_version",
    "model",
)
"""Fields that a record may lack; records of earlier versions do."""


def span_id_of(trace_id: str) -> str:
    """Return the id of the one span of a call whose trace id this is."""
    return trace_id[16:]


@dataclass(slots=True, kw_only=True)
class Exchange:
    """A request and its answer, untouched, which nobody changes: to freeze it would cost more than to journal it.

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
        first_byte_ns: Unix nanoseconds at which a stream first said something beyond the role, or None.
        broken: Why a stream ended before its end; None for all other answers.
        asked: The body of what the backend was asked for, if that is another than the client's request.
        backend: The base URL of the backend that answered, or None.
        retries: How often the gateway asked again before this answer came.
        request_id: The id that the client gave its request, or None.
        backend_request_id: The id that the backend gave the request, or None.
        supersedes: The span id of the call that this one repeats because its answer did not reach the agent, or None.
        held_ns: For how many nanoseconds the request was held before a backend was asked.
        weights_version: The version of the backend's weights when it was asked, as configured, or None.
        model: The model that the request names; None if that must be looked up in it.
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
    backend: str | None = None
    retries: int = 0
    request_id: str | None = None
    backend_request_id: str | None = None
    supersedes: str | None = None
    held_ns: int = 0
    weights_version: int | None = None
    model: str | None = None

    @property
    def span_id(self) -> str:
        """The id of the one span of this call, 16 hexadecimal characters."""
        return span_id_of(self.trace_id)

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
        head |= {name: value for name in _RARE if (value := getattr(self, name)) != _ABSENT[name]}
        return b"".join((write_json(head), b"\n", *self._bodies))

    @property
    def _bodies(self) -> tuple[bytes, bytes, bytes]:
        return self.request, self.asked, self.response


_ABSENT: Final = {each.name: each.default for each in fields(Exchange) if each.name in _RARE}


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
        end = response + response_size
        if end > len(data):
            return
        head |= {"request": data[start:asked], "asked": data[asked:response], "response": data[response:end]}
        try:
            exchange = Exchange(**head)
        except TypeError as error:
            raise _no_record(position, error) from error
        yield exchange
        position = end


def _read_head(line: bytes, position: int) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Return the fields of an exchange without its bodies, and their sizes."""
    try:
        head: dict[str, Any] = read_json(line)
        request_size, asked_size, response_size = head.pop("sizes")
        if min(request_size, asked_size, response_size) < 0:
            raise ValueError("a size is negative")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _no_record(position, error) from error
    return head, (request_size, asked_size, response_size)


def _no_record(position: int, error: Exception) -> ValueError:
    return ValueError(f"no record of a model call at byte {position}: {error!r}")
