"""Attempts that the store did not know a moment ago."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_REMEMBERED_SECONDS: Final = 10.0
_MOST_ATTEMPTS: Final = 10_000

Attempt = tuple[str, str]


class UnknownAttempts:
    """Remembers for some seconds whom the store refused, so that their calls spoil no operation for others.

    Args:
        clock: Returns seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[Attempt, float] = OrderedDict()

    def add(self, attempt: Attempt) -> None:
        """Remember an attempt, from now on anew."""
        self._until.pop(attempt, None)
        self._until[attempt] = self._clock() + _REMEMBERED_SECONDS
        if len(self._until) > _MOST_ATTEMPTS:
            self._until.popitem(last=False)

    def __contains__(self, attempt: Attempt) -> bool:
        """Tell whether the store refused this attempt some seconds ago."""
        until = self._until.get(attempt)
        if until is not None and until <= self._clock():
            del self._until[attempt]
            return False
        return until is not None
