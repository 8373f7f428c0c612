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
LIMIT_BYTES: Final = 2 << 30
"""What a journal holds if nobody says otherwise: hundreds of thousands of calls, or a store's absence of an hour."""


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


class Journal:
    """Appends calls to files in a directory; each append is one write and survives the death of the process.

    A file ends when `seal` is called or it is large, and is deleted once its calls are in the store. So an idle
    journal is an empty directory, and what a killed process leaves there is what the next one has to replay.

    Args:
        directory: Made when it is missing. It belongs to one gateway at a time.
        limit: The bytes that it holds at most.

    Attributes:
        size: The bytes that it holds.
    """

    def __init__(self, directory: Path, limit: int = LIMIT_BYTES) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._limit = limit
        self._sealed = [Segment(path) for path in sorted(directory.glob(f"*{_SUFFIX}"))]
        self._sizes = {segment: segment.path.stat().st_size for segment in self._sealed}
        self._open: tuple[Segment, int] | None = None
        self.size = sum(self._sizes.values())

    def append(self, exchange: Exchange) -> Segment:
        """Write a call; when this returns, killing the process does not lose it.

        Returns:
            The segment that will hold it.

        Raises:
            OSError: The disk takes no more, or the journal is full.
        """
        data = exchange.to_bytes()
        if self.size + len(data) > self._limit:
            raise OSError(
                f"the gateway's journal in {self._directory} is full with {self.size} bytes: "
                "the store does not take calls as fast as they come"
            )
        segment, descriptor = self._opened()
        written = os.write(descriptor, data)
        self.size += written
        self._sizes[segment] += written
        if written < len(data):
            self._end_segment()  # what follows must not stand behind half a record
            raise OSError(f"the gateway's journal in {self._directory} took {written} of {len(data)} bytes: disk full?")
        if self._sizes[segment] >= _SEGMENT_BYTES:
            self._end_segment()
        return segment

    def seal(self) -> list[Segment]:
        """End the open file; returns all ended files that `seal` has not returned before, oldest first."""
        self._end_segment()
        sealed, self._sealed = self._sealed, []
        return sealed

    def delete(self, segment: Segment) -> None:
        """Forget a segment: the store has its calls.

        Raises:
            OSError: The file cannot be deleted.
        """
        segment.path.unlink(missing_ok=True)
        self._forget(segment)

    def set_aside(self, segment: Segment) -> None:
        """Rename the file of a segment, so that no later journal stumbles over it.

        Raises:
            OSError: The file cannot be renamed.
        """
        self._forget(segment)
        segment.path.rename(segment.path.with_name(segment.path.name + ".bad"))

    def _forget(self, segment: Segment) -> None:
        self.size -= self._sizes.pop(segment, 0)

    def _opened(self) -> tuple[Segment, int]:
        if self._open is None:
            self._directory.mkdir(parents=True, exist_ok=True)  # cleaners of temporary files take idle ones away
            path = self._directory / f"{time.time_ns():020d}-{os.getpid()}{_SUFFIX}"
            self._open = Segment(path), os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            self._sizes[self._open[0]] = 0
        return self._open

    def _end_segment(self) -> None:
        if self._open is not None:
            segment, descriptor = self._open
            os.close(descriptor)
            self._sealed.append(segment)
            self._open = None
