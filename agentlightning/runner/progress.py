"""How far a runner has come with the rollouts it is to run."""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger(__name__)

_TOLD: Final = 10
"""Every so many rollouts the log tells how many there were."""


class Progress:
    """Counts the rollouts that `iter` has started.

    Args:
        prefix: What each line of the log starts with.
        limit: How many there may be; None for any number.
    """

    def __init__(self, prefix: str, limit: int | None) -> None:
        self._prefix = prefix
        self._limit = limit
        self._started = 0

    @property
    def complete(self) -> bool:
        """Whether all that there may be were started."""
        return self._limit is not None and self._started >= self._limit

    def limit(self, wanted: int) -> int:
        """Return how many of those that are wanted may be started."""
        return wanted if self._limit is None else min(wanted, self._limit - self._started)

    def count(self) -> None:
        """Count one that is started."""
        self._started += 1
        if self._started == 1 or self._started % _TOLD == 0:
            of = "" if self._limit is None else f" of {self._limit}"
            logger.info("%s Starts rollout %d%s", self._prefix, self._started, of)
