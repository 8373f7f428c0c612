"""Metrics of a run: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

MetricsListener: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Called with each record, in the order in which they were written."""


class MetricsLog:
    """Appends records to a JSON Lines file and tells a listener about each.

    Args:
        path: The file; None writes nowhere.
        listener: Called with each record.
    """

    def __init__(self, path: Path | None, listener: MetricsListener | None = None) -> None:
        self._listener = listener
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record; it is in the file when this returns."""
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        if self._listener is not None:
            self._listener(record)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
