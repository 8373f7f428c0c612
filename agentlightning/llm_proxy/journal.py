"""The journal: where calls wait on disk until the store has them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentlightning.llm_proxy.exchange import Exchange, read_exchanges

_SEGMENT_BYTES: Final = 1 << 20
_SUFFIX: Final = ".journal"


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of the journal that nobody appends to any more."""

    path: Path

    def read(self) -> list[Exchange]:
        """Return the calls in it, in the order in which they were appended.

        Raises:
            OSError: The file cannot be read.
            ValueError: It does not hold what a journal writes.
        """
        return list(read_exchanges(self.path.read_bytes()))

    def delete(self) -> None:
        """Forget it: the store has its calls.

        Raises:
            OSError: The file cannot be deleted.
        """
        self.path.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Rename it, so that no later journal stumbles over it; returns the new path.

        Raises:
            OSError: The file cannot be renamed.
        """
        return self.path.rename(self.path.with_name(self.path.name + ".bad"))


class Journal:
    """Appends calls to files in a directory; each append is one write and survives the death of the process.

    A file ends when `seal` is called or it is large, and is deleted once its calls are in the store. So an idle
    journal is an empty directory, and what a killed process leaves there is what the next one has to replay.

    Args:
        directory: Made when it is missing. It belongs to one gateway at a time.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._sealed = [Segment(path) for path in sorted(directory.glob(f"*{_SUFFIX}"))]
        self._open: tuple[Segment, int] | None = None
        self._size = 0

    def append(self, exchange: Exchange) -> Segment:
        """Write a call; when this returns, killing the process does not lose it.

        Returns:
            The segment that will hold it.

        Raises:
            OSError: The disk takes no more.
        """
        data = exchange.to_bytes()
        segment, descriptor = self._opened()
        written = os.write(descriptor, data)
        self._size += written
        if written < len(data):
            self._end_segment()  # what follows must not stand behind half a record
            raise OSError(f"the gateway's journal in {self._directory} took {written} of {len(data)} bytes: disk full?")
        if self._size >= _SEGMENT_BYTES:
            self._end_segment()
        return segment

    def seal(self) -> list[Segment]:
        """End the open file; returns all ended files that `seal` has not returned before, oldest first."""
        self._end_segment()
        sealed, self._sealed = self._sealed, []
        return sealed

    def _opened(self) -> tuple[Segment, int]:
        if self._open is None:
            self._directory.mkdir(parents=True, exist_ok=True)  # cleaners of temporary files take idle ones away
            path = self._directory / f"{time.time_ns():020d}-{os.getpid()}{_SUFFIX}"
            self._open = Segment(path), os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            self._size = 0
        return self._open

    def _end_segment(self) -> None:
        if self._open is not None:
            segment, descriptor = self._open
            os.close(descriptor)
            self._sealed.append(segment)
            self._open = None
