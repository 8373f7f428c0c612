"""Runners of one name: a heartbeat must not release what another runner holds under the same name."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from agentlightning._internal.ids import generate_id

logger = logging.getLogger(__name__)

_RUNNER: Final = "runner"
_INTERVAL: Final = "heartbeat_interval"
_MISSED: Final = 3
"""How many heartbeats a runner may be silent before it counts as gone."""
_SHORTEST: Final = 1.0
"""Seconds that one of them may take at least, however short the interval."""


class Namesakes:
    """Signs a runner's heartbeats, and reads from what the store answers whether another one signs them too.

    Args:
        worker_id: The name.
        interval: Seconds between two of this runner's heartbeats.
    """

    def __init__(self, worker_id: str, interval: float) -> None:
        self._worker_id = worker_id
        self._runner = generate_id(12)
        self._interval = interval
        self._was_heard = False
        self._has_told = False
        self._gone_at = 0.0

    def sign(self, stats: dict[str, Any]) -> dict[str, Any]:
        """Return what a heartbeat tells, with who tells it."""
        return {**stats, _RUNNER: self._runner, _INTERVAL: self._interval}

    def heard(self, former_stats: dict[str, Any] | None) -> None:
        """The store has taken a heartbeat that was signed, and answered what the one before it told."""
        stats = former_stats or {}
        if stats.get(_RUNNER, self._runner) != self._runner:
            interval = stats.get(_INTERVAL)
            interval = interval if isinstance(interval, (int, float)) else self._interval
            self._gone_at = time.monotonic() + _MISSED * max(interval, _SHORTEST)
            if self._was_heard:  # it has written over our last heartbeat, so it lives
                self._tell(stats)
        self._was_heard = True

    def are_gone(self) -> bool:
        """Whether this runner has the name for itself, as far as it has heard."""
        return time.monotonic() >= self._gone_at

    def _tell(self, stats: dict[str, Any]) -> None:
        if not self._has_told:
            self._has_told = True
            logger.error(
                "Another runner, on %s, also calls itself %s; neither takes back now what was claimed under that name "
                "and never reached it. Give each a name: LitAgentRunner(worker_name=…), AGL_WORKER_NAME or worker_id",
                stats.get("host", "an unknown host"),
                self._worker_id,
            )
