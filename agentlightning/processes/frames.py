"""Messages between two processes, each pickled and behind its length."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, Final

_LENGTH: Final = struct.Struct(">Q")


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


def receive(line: socket.socket) -> Any:
    """Wait for the next message and return it; None when the other process is gone."""
    header = _read(line, _LENGTH.size)
    content = None if header is None else _read(line, _LENGTH.unpack(header)[0])
    return None if content is None else pickle.loads(content)


def _read(line: socket.socket, size: int) -> bytes | None:
    content = bytearray()
    while len(content) < size:
        try:
            piece = line.recv(size - len(content))
        except OSError:
            return None
        if not piece:
            return None
        content += piece
    return bytes(content)
