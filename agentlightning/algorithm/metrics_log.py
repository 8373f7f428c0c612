"""Metrics of a run: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

MetricsListener: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Called with each record, in the order in which they were written."""


class MetricsLog:
    """Appends records to a JSON Lines file, which the first of them makes, and tells listeners about each.

    Args:
        path: The file; None writes nowhere.
        listeners: Called with each record.
    """

    def __init__(self, path: Path | None, listeners: Sequence[MetricsListener] = ()) -> None:
        self._path = path
        self._listeners = tuple(listeners)
        self._file = None

    @property
    def size(self) -> int:
        """How many bytes the file has."""
        return self._path.stat().st_size if self._path is not None and self._path.exists() else 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record; it is in the file when this returns."""
        if self._path is not None:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        for listener in self._listeners:
            listener(record)

    def cut(self, size: int) -> None:
        """Take back what stands behind the first `size` bytes."""
        if self._path is not None and self.size > size:
            self.close()
            with self._path.open("r+b") as file:
                file.truncate(size)

    def close(self) -> None:
        """Close the file; a later record opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None
