"""What becomes of each call, for those who run the gateway: counted always, logged when it failed."""

from __future__ import annotations

import logging
import time
from typing import Final

from agentlightning.llm_proxy.metrics import Series
from agentlightning.llm_proxy.reply import EventStream, Reply
from agentlightning.llm_proxy.stream import Received
from agentlightning.serving import CLIENT_LEFT

logger = logging.getLogger(__name__)

_NANOSECONDS: Final = 1_000_000_000
_BROKEN: Final = 502
_SAID_BYTES: Final = 500


class Watch:
    """Follows one call from the moment at which it may go on.

    Args:
        series: Where it is counted.
        path: What was called.
        attempt: The rollout and the attempt that called, or None twice.
    """

    __slots__ = ("_attempt", "_path", "_series", "_started")

    def __init__(self, series: Series, path: str, attempt: tuple[str | None, str | None]) -> None:
        self._series = series
        self._path = path
        self._attempt = attempt
        self._started = time.time_ns()

    def answered(self, reply: Reply) -> None:
        """Take note of an answer."""
        self._series.count(reply.status, self._until(time.time_ns()), (reply.body,), reply.retries)
        if reply.status >= 400:
            self._warn(reply.status, reply.body[:_SAID_BYTES].decode(errors="replace"))

    def ended(self, stream: EventStream, received: Received) -> None:
        """Take note of the end of an answer that came piece by piece."""
        status, broken = stream.status, received.broken
        if broken is not None:
            status = CLIENT_LEFT if broken.startswith("client_left") else _BROKEN
        self._series.count(status, self._until(time.time_ns()), received.pieces, stream.retries)
        if received.first_byte_ns is not None:
            self._series.first_token.add(self._until(received.first_byte_ns))
        if status >= 400:
            self._warn(status, broken or f"a stream that begins with {received.pieces[:1]}")

    def _until(self, moment_ns: int) -> float:
        return max(moment_ns - self._started, 0) / _NANOSECONDS

    def _warn(self, status: int, said: str) -> None:
        rollout_id, attempt_id = self._attempt
        logger.warning(
            "%s of rollout %s, attempt %s, failed with %d: %s",
            self._path,
            rollout_id,
            attempt_id,
            status,
            said,
            extra={"rollout_id": rollout_id, "attempt_id": attempt_id, "status": status},
        )
