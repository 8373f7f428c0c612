"""What a server answers, for who reads it whole and for who reads it as it comes."""

from __future__ import annotations

import asyncio
from typing import Final

_UNREAD_BYTES: Final = 1 << 20
"""How much of a stream may wait for its reader before the server has to."""


class Answer:
    """An answer whose head is there.

    Args:
        transport: The connection on which it comes.
        status: See the attribute.
        headers: See the attribute.

    Attributes:
        status: HTTP status.
        headers: Values by name in lower case; several of a name with commas between them.
    """

    __slots__ = (
        "_complete", "_error", "_paused", "_pieces", "_size", "_transport", "_waiter", "_whole", "headers", "status",
    )  # fmt: skip

    def __init__(self, transport: asyncio.Transport, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.headers = headers
        self._transport = transport
        self._pieces: list[bytes] = []
        self._size = 0
        self._whole = False
        self._paused = False
        self._complete = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def media_type(self) -> str:
        """What kind of body it has, such as `text/event-stream`."""
        return self.headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            ConnectionError: It broke off.
        """
        self._whole = True
        self._resume()
        while not self._complete and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error
        return self._taken()

    async def read_some(self) -> bytes:
        """Return what has come of the body, waiting for it if need be; nothing at the end.

        Raises:
            ConnectionError: It broke off.
        """
        while not self._pieces and not self._complete and self._error is None:
            await self._wait()
        if self._error is not None and not self._pieces:
            raise self._error
        self._resume()
        return self._taken()

    def close(self) -> None:
        """Leave it; the connection goes, too, unless the answer is complete."""
        if not self._complete:
            self._transport.abort()

    def add(self, piece: bytes) -> None:
        """Take a piece of the body."""
        if not piece:
            return  # of a compressed body, which has its head first
        self._pieces.append(piece)
        self._size += len(piece)
        if not self._whole:
            if self._size > _UNREAD_BYTES and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            self._wake()

    def end(self) -> None:
        """Take note that this was all; its connection may serve another, whatever waits here to be read."""
        self._resume()
        self._complete = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Tell the reader, behind what has come, that nothing more will."""
        if not self._complete and self._error is None:
            self._error = error
            self._wake()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _taken(self) -> bytes:
        pieces, self._pieces, self._size = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
