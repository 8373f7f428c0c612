"""What an attempt exchanges with the gateway, on its way into the journal."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from agentlightning._internal.ids import generate_id
from agentlightning.llm_proxy.exchange import Exchange
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.stream import Received


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """Takes down one request of an attempt, which is there when this is made, and its answer.

    Attributes:
        shipper: Takes the record.
        sequence_id: The place among the rollout's spans.
        rollout_id: The rollout that called.
        attempt_id: The attempt that called.
        path: What was called.
        request: The request's body.
        asked: The body of what the backend is asked for, if that is another.
    """

    shipper: Shipper
    sequence_id: asyncio.Future[int | None]
    rollout_id: str
    attempt_id: str
    path: str
    request: bytes
    asked: bytes = b""
    start_ns: int = field(default_factory=time.time_ns)

    def take(self, status: int, body: bytes, received: Received | None = None) -> None:
        """Journal the answer.

        Args:
            status: Its HTTP status.
            body: Its body.
            received: How it came, if it came as a stream.

        Raises:
            OSError: The journal's disk takes no more.
        """
        exchange = Exchange(
            rollout_id=self.rollout_id,
            attempt_id=self.attempt_id,
            trace_id=generate_id(32),
            path=self.path,
            start_ns=self.start_ns,
            end_ns=time.time_ns(),
            status=status,
            request=self.request,
            asked=self.asked,
            response=body,
            streamed=received is not None,
            first_byte_ns=received.first_byte_ns if received else None,
            broken=received.broken if received else None,
        )
        self.shipper.add(exchange, self.sequence_id)
