"""How much one request may hold, and how many the server works on at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from starlette.types import Receive

from agentlightning.errors import InvalidValue, TooBusy, TooLarge
from agentlightning.store.listening import ClientLeft


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes.

    Attributes:
        body_bytes: The largest body of a request, also when decompressed.
        items: The most spans, rollouts, ids or whatever else one request may list.
        requests: The most requests that may wait for the store at once; further ones are told to come again.
        polls: The most requests that may wait for something to happen, which costs little.
    """

    body_bytes: int = 64 * 1024 * 1024
    items: int = 100_000
    requests: int = 1024
    polls: int = 20_000


class Gate:
    """Counts who is inside, and turns away whom it has no room for.

    Args:
        room: How many may be inside.
        what: What they are, for the one who is turned away.
    """

    def __init__(self, room: int, what: str) -> None:
        self._room = self._free = room
        self._what = what

    def __enter__(self) -> None:
        if self._free <= 0:
            raise TooBusy(f"the server works on {self._room} {self._what} already: try again in a second")
        self._free -= 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._free += 1


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], most: int) -> bytes:
    """Read a request's body.

    Raises:
        TooLarge: It has more than `most` bytes; the rest is not read.
        ClientLeft: The client left in the middle of it.
    """
    _check_size(_announced_size(headers), most)
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and message["type"] == "http.request":
        _check_size(len(body), most)
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        _check_size(size, most)
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if message["type"] == "http.disconnect":
        raise ClientLeft("the client left")
    _check_size(size, most)
    return b"".join(parts)


def check_items(arguments: Mapping[str, Any], most: int) -> None:
    """Refuse lists that are too long.

    Raises:
        TooLarge: One has more than `most` items.
    """
    for name, value in arguments.items():
        if isinstance(value, (list, tuple)) and len(value) > most:  # pyright: ignore[reportUnknownArgumentType]
            raise TooLarge(f"{name} has more than {most} items: send them in parts")


def _announced_size(headers: Mapping[bytes, bytes]) -> int:
    try:
        return int(headers.get(b"content-length", b"0"))
    except ValueError as error:
        raise InvalidValue("Content-Length is no number") from error


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise TooLarge(f"the request holds more than {most} bytes: send it in parts")
