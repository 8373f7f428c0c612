"""What a program wrote, with a limit: its beginning and its end are kept, and what lay between is counted."""

from __future__ import annotations

from typing import Final

from agentlightning._internal.text import storable

_PIECES: Final = 2
"""How many times its size the end may grow before it is cut: cutting at each chunk would copy too often."""


class KeptOutput:
    """One stream of a program.

    Args:
        limit: How many bytes to keep; half of them are the beginning's.

    Attributes:
        size: How many bytes came.
    """

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        """Take a chunk."""
        self.size += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > _PIECES * self._half:
            self._cut()

    @property
    def omitted(self) -> int:
        """How many bytes were left out."""
        self._cut()
        return self.size - len(self._head) - len(self._tail)

    def text(self) -> str:
        """Return what was kept, with a line that counts what was left out."""
        omitted = self.omitted
        if not omitted:
            return _decoded(self._head + self._tail)
        return f"{_decoded(self._head)}\n[… {omitted} bytes left out …]\n{_decoded(self._tail)}"

    def end(self, size: int) -> str:
        """Return at most the last `size` bytes that came."""
        self._cut()
        kept = self._tail if self.omitted else self._head + self._tail
        return _decoded(kept[-size:])

    def _cut(self) -> None:
        del self._tail[: -self._half]


def _decoded(data: bytearray) -> str:
    return storable(data.decode("utf-8", "replace"))
