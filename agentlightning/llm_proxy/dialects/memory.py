"""What must be remembered of answers, so that a later request can go on from them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

Attempt = tuple[str | None, str | None]

_MOST_BYTES: Final = 256 * 1024 * 1024


class Memory:
    """Keeps values by attempt and name; those not used for longest go first when it is full.

    Args:
        most_bytes: How much it holds.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._kept: OrderedDict[tuple[Attempt, str], tuple[Any, int]] = OrderedDict()

    def keep(self, attempt: Attempt, name: str, value: Any, size: int) -> None:
        """Remember a value of about `size` bytes, in the place of an earlier one of that name.

        What it shares with others counts for each: it stays alive with the last of them.
        """
        key = attempt, name
        self._drop(key)
        self._kept[key] = value, size
        self._held_bytes += size
        while self._held_bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def recall(self, attempt: Attempt, name: str) -> Any:
        """Return what was kept; None if nothing was, or if it is forgotten."""
        key = attempt, name
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def size_of(self, attempt: Attempt, name: str) -> int:
        """Return the size with which a value was kept; 0 if nothing is."""
        return self._kept.get((attempt, name), (None, 0))[1]

    def _drop(self, key: tuple[Attempt, str]) -> None:
        if key in self._kept:
            self._held_bytes -= self._kept.pop(key)[1]
