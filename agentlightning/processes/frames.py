"""Messages between two processes, each pickled and behind its length."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import struct
import threading
from collections.abc import AsyncIterator
from typing import Any, Final

_LENGTH: Final = struct.Struct(">Q")


class Line:
    """A child's way to the process that started it; for all threads, and not for processes that it forks.

    Args:
        descriptor: The number of its socket, which programs that it starts do not get.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._connection = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()
        self._process = os.getpid()

    def receive(self) -> Any:
        """Wait for the next message and return it; None when the other process is gone."""
        header = self._read(_LENGTH.size)
        content = None if header is None else self._read(_LENGTH.unpack(header)[0])
        return None if content is None else pickle.loads(content)

    def send(self, message: Any) -> None:
        """Send a message; it is on its way when this returns, whatever becomes of the process."""
        if os.getpid() == self._process:
            frame = framed(pickle.dumps(message))
            with self._lock:
                self._connection.sendall(frame)

    def _read(self, size: int) -> bytes | None:
        content = bytearray()
        while len(content) < size:
            try:
                piece = self._connection.recv(size - len(content))
            except OSError:
                return None
            if not piece:
                return None
            content += piece
        return bytes(content)


def framed(content: bytes) -> bytes:
    """Return a pickled message as it is sent."""
    return _LENGTH.pack(len(content)) + content


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[Any]:
    """Yield what the other process sends until it ends, however it does."""
    try:
        while True:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            yield pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError):
        return
