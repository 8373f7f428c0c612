"""Metrics of a run: one JSON object a line."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

MetricsListener: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Called with each record, in the order in which they were written; one with `close()` is closed when the run ends."""

logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends records to a JSON Lines file, which the first of them makes, and tells listeners about each.

    A listener that fails is named in the log, once, and the run goes on.

    Args:
        path: The file; None writes nowhere.
        listeners: Called with each record.
    """

    def __init__(self, path: Path | None, listeners: Sequence[MetricsListener] = ()) -> None:
        self._path = path
        self._listeners = tuple(listeners)
        self._failed: set[int] = set()
        self._file = None

    @property
    def size(self) -> int:
        """How many bytes the file has."""
        return self._path.stat().st_size if self._path is not None and self._path.exists() else 0

    def write(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write one record, and return it as JSON's types; it is in the file when this returns.

        Numbers of NumPy and PyTorch become Python's. JSON has no NaN and no infinity: they are null in the file.
        """
        plain: dict[str, Any] = _plain(record)
        if self._path is not None:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write(json.dumps(_finite(plain), allow_nan=False) + "\n")
            self._file.flush()
        for index, listener in enumerate(self._listeners):
            self._tell(index, listener, plain)
        return plain

    def cut(self, size: int) -> None:
        """Take back what stands behind the first `size` bytes."""
        if self._path is not None and self.size > size:
            self._close_file()
            with self._path.open("r+b") as file:
                file.truncate(size)

    def close(self) -> None:
        """Close the file and the listeners; a later record opens them again."""
        self._close_file()
        for index, listener in enumerate(self._listeners):
            close = getattr(listener, "close", None)
            if callable(close):
                self._tell(index, close)

    def _tell(self, index: int, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception:  # whatever a listener does, the run is worth more
            if index not in self._failed:
                logger.exception("Metrics do not all reach %r; the run goes on.", self._listeners[index])
            self._failed.add(index)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: Any) -> Any:
    """Return a value as JSON's types; what JSON cannot say becomes text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    if hasattr(value, "tolist"):  # numbers and arrays of NumPy and PyTorch
        return _plain(value.tolist())
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_finite(each) for each in cast("list[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
