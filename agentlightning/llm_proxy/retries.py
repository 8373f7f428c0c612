"""When a call is made once more."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

_RETRIED: Final = frozenset({408, 409, 429})
_FIRST_SECONDS: Final = 0.5
_LONGEST_SECONDS: Final = 8.0
_PATIENCE_SECONDS: Final = 30.0
"""A backend that wants more time than this is not asked again: the client learns what it said."""


def is_passing(status: int) -> bool:
    """Whether the same request may be answered a little later, or elsewhere."""
    return status in _RETRIED or status >= 500


class Backoff:
    """How long to wait before a backend is asked again.

    Args:
        draw: Returns a random number in [0, 1).
        now: Returns the seconds since the epoch.
    """

    def __init__(self, draw: Callable[[], float] = random.random, now: Callable[[], float] = time.time) -> None:
        self._draw = draw
        self._now = now

    def seconds(self, retries: int, headers: Mapping[str, str]) -> float | None:
        """Return the time to wait, or None where the backend wants more of it than a call should take.

        Args:
            retries: How often this call was made again before.
            headers: Of the answer that the backend gave.
        """
        # A quarter of it by chance: calls that failed together do not come back together.
        own = min(_FIRST_SECONDS * 2.0 ** min(retries, 16), _LONGEST_SECONDS) * (1.0 - self._draw() / 4)
        wanted = _retry_after(headers, self._now())
        if wanted is None:
            return own
        return max(own, wanted) if wanted <= _PATIENCE_SECONDS else None


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    lowered = {key.lower(): value for key, value in headers.items()}
    try:
        if "retry-after-ms" in lowered:  # OpenAI's, and finer
            seconds = float(lowered["retry-after-ms"]) / 1000
        else:
            text = lowered.get("retry-after", "")
            seconds = float(text) if text[:1].isdigit() else parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return None  # it names no time
    return None if math.isnan(seconds) else seconds
