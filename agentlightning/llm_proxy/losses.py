"""Calls that were answered and cannot be recorded: how many, and whose."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 60.0
_MOST_ATTEMPTS: Final = 10_000
_LONGEST_ERROR: Final = 1000

Attempt = tuple[str, str]


class Losses:
    """Counts records that never reach the store, so that nobody takes what is there for all there was.

    Args:
        clock: Returns seconds that never go back.

    Attributes:
        total: How many there were.
        journal_full: How many of them because the journal or its disk was full.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: OrderedDict[Attempt, int] = OrderedDict()
        self._said: dict[str, float] = {}
        self.total = 0
        self.journal_full = 0

    def of(self, attempt: Attempt) -> int:
        """Return how many calls of an attempt were lost; the attempts that lost some longest ago are forgotten."""
        return self._of.get(attempt, 0)

    def add(self, attempt: Attempt, count: int = 1) -> None:
        """Count calls of an attempt whose loss is said elsewhere."""
        self.total += count
        self._of[attempt] = self._of.pop(attempt, 0) + count
        if len(self._of) > _MOST_ATTEMPTS:
            self._of.popitem(last=False)

    def add_unwritten(self, attempt: Attempt, error: OSError) -> None:
        """Count a call that the journal did not take, and say so once a minute."""
        self.add(attempt)
        self.journal_full += 1
        if self._is_time_for("unwritten"):
            logger.error(
                "model calls are answered and not recorded, %d so far, the last of rollout %s: %s",
                self.journal_full,
                attempt[0],
                error,
            )

    def add_refused(self, attempt: Attempt, count: int, error: Exception) -> None:
        """Count calls that the store refuses, or that cannot be written for it, and say so once a minute."""
        self.add(attempt, count)
        if self._is_time_for("refused"):
            logger.error(
                "model calls or events are dropped, %d are lost so far, the last of rollout %s: %s: %s",
                self.total,
                attempt[0],
                type(error).__name__,
                str(error)[:_LONGEST_ERROR],
            )

    def _is_time_for(self, kind: str) -> bool:
        now = self._clock()
        if now - self._said.get(kind, -math.inf) < _QUIET_SECONDS:
            return False
        self._said[kind] = now
        return True
