"""How much one request may hold, and how many the server works on at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from starlette.types import Receive

from agentlightning.errors import InvalidValue, StoreError, TooBusy, TooLarge
from agentlightning.store.listening import ClientLeft
from agentlightning.store.span_json import SpansOnTheWire


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes.

    Attributes:
        body_bytes: The largest body of a request, also when decompressed.
        bytes_under_way: The most that the bodies of all requests may hold that are being read or carried out.
        body_seconds: How long a body may take to arrive.
        items: The most spans, rollouts, ids or whatever else one request may list.
        requests: The most requests that may wait for the store at once; further ones are told to come again.
        polls: The most requests that may wait for something to happen, which costs little.
    """

    body_bytes: int = 64 * 1024 * 1024
    bytes_under_way: int = 256 * 1024 * 1024
    body_seconds: float = 60
    items: int = 10_000
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


class Bodies:
    """Reads the bodies of requests, and has room for so many of their bytes.

    Args:
        limits: What the server takes.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free = limits.bytes_under_way
        self._arriving: set[asyncio.Timeout] = set()

    def hurry(self) -> None:
        """Give those that are arriving one second more."""
        end = asyncio.get_running_loop().time() + 1
        for deadline in self._arriving:
            if not deadline.expired():
                deadline.reschedule(min(end, deadline.when() or end))

    @asynccontextmanager
    async def body(self, receive: Receive, headers: Mapping[bytes, bytes]) -> AsyncGenerator[bytes]:
        """Read a request's body and keep its room until the block is over.

        Raises:
            TooLarge: It holds more than one may; the rest is not read.
            TooBusy: There is no room for it.
            TooSlow: It does not come.
            ClientLeft: The client left in the middle of it.
        """
        _check_size(_announced_size(headers), self._limits.body_bytes)
        parts: list[bytes] = []
        try:
            await self._read(receive, parts)
            if len(parts) > 1:
                parts[:] = [b"".join(parts)]
            yield parts[0]
        finally:
            self._free += sum(map(len, parts))

    async def _read(self, receive: Receive, parts: list[bytes]) -> None:
        size = 0
        deadline = asyncio.timeout(self._limits.body_seconds)
        try:
            async with deadline:
                self._arriving.add(deadline)
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft("the client left")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._free -= len(parts[-1])
                    _check_size(size, self._limits.body_bytes)
                    if self._free < 0:
                        raise TooBusy("the server holds as much as it has room for: try again in a second")
                    if not message.get("more_body"):
                        return
        except TimeoutError:
            raise TooSlow("the request's body did not come in time: send it in parts") from None
        finally:
            self._arriving.discard(deadline)


class TooSlow(StoreError):
    """The body of a request did not come in time."""

    status = 408


def check_items(arguments: Mapping[str, Any], most: int) -> None:
    """Refuse lists that are too long.

    Raises:
        TooLarge: One has more than `most` items.
    """
    for name, value in arguments.items():
        if isinstance(value, (list, tuple, SpansOnTheWire)) and len(value) > most:  # pyright: ignore[reportUnknownArgumentType]
            raise TooLarge(f"{name} has more than {most} items: send them in parts")


def _announced_size(headers: Mapping[bytes, bytes]) -> int:
    try:
        return int(headers.get(b"content-length", b"0"))
    except ValueError as error:
        raise InvalidValue("Content-Length is no number") from error


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise TooLarge(f"the request holds more than {most} bytes: send it in parts")
