"""What an attempt exchanges with the gateway, on its way into the journal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agentlightning._internal.ids import generate_id
from agentlightning.llm_proxy.exchange import Exchange, span_id_of
from agentlightning.llm_proxy.reply import EventStream, Reply
from agentlightning.llm_proxy.sequence import SequenceReserver
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.stream import Received
from agentlightning.llm_proxy.superseded import IDENTIFYING, Outcome, Repetitions, Sent

_ID_HEADER: Final = b"x-request-id"
_BACKEND_IDS: Final = ("x-request-id", "request-id")
_LONGEST_ID: Final = 256
_CLIENT_LEFT: Final = "client_left"


@dataclass(slots=True, kw_only=True)
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
        request_id: The id that the client gave its request, or None.
        repetition: Says which call this one repeats; None for what is no model call.
        held_ns: For how many nanoseconds the call was held before a backend was asked.
        model: The model that the request names, once it was read; None for what names none.
    """

    shipper: Shipper
    sequence_id: asyncio.Future[int | None]
    rollout_id: str
    attempt_id: str
    path: str
    request: bytes
    asked: bytes = b""
    request_id: str | None = None
    repetition: tuple[Repetitions, Sent] | None = None
    held_ns: int = 0
    model: str | None = None
    trace_id: str = field(default_factory=lambda: generate_id(32))
    start_ns: int = field(default_factory=time.time_ns)

    def take(self, reply: Reply) -> bool:
        """Journal an answer; False if it is lost."""
        return self._add(reply, reply.body, None, "failed" if reply.status >= 400 else "answered")

    def take_stream(self, stream: EventStream, received: Received) -> None:
        """Journal an answer that came piece by piece."""
        outcome: Outcome = "answered"
        if received.broken is not None or stream.status >= 400:
            outcome = "left" if (received.broken or "").startswith(_CLIENT_LEFT) else "failed"
        self._add(stream, b"".join(received.pieces), received, outcome)

    def _add(self, reply: Reply | EventStream, body: bytes, received: Received | None, outcome: Outcome) -> bool:
        exchange = Exchange(
            rollout_id=self.rollout_id,
            attempt_id=self.attempt_id,
            trace_id=self.trace_id,
            path=self.path,
            start_ns=self.start_ns,
            end_ns=time.time_ns(),
            status=reply.status,
            request=self.request,
            asked=self.asked,
            response=body,
            streamed=received is not None,
            first_byte_ns=received.first_byte_ns if received else None,
            broken=received.broken if received else None,
            backend=reply.backend,
            retries=reply.retries,
            request_id=self.request_id,
            backend_request_id=_backend_id(reply.headers),
            supersedes=self._repeated(outcome),
            held_ns=self.held_ns,
            weights_version=reply.weights_version,
            model=self.model,
        )
        return self.shipper.add(exchange, self.sequence_id)

    def _repeated(self, outcome: Outcome) -> str | None:
        if self.repetition is None:
            return None
        repetitions, sent = self.repetition
        return repetitions.end(sent, outcome)


class Recorders:
    """Makes the recorders of a gateway.

    Args:
        shipper: Takes the records.
        sequences: Gives calls their places among the spans.
    """

    def __init__(self, shipper: Shipper, sequences: SequenceReserver) -> None:
        self._shipper = shipper
        self._sequences = sequences
        self._repetitions = Repetitions()

    def begin(
        self, attempt: tuple[str, str], path: str, body: bytes, headers: Iterable[tuple[bytes, bytes]]
    ) -> Recorder:
        """Return what takes a model call down that has just come, with the headers that its client sent."""
        known = {key: value.decode("latin-1") for key, value in headers if key in IDENTIFYING or key == _ID_HEADER}
        trace_id = generate_id(32)
        return Recorder(
            shipper=self._shipper,
            sequence_id=self._sequences.reserve(*attempt),
            rollout_id=attempt[0],
            attempt_id=attempt[1],
            path=path,
            request=body,
            request_id=known.get(_ID_HEADER, "")[:_LONGEST_ID] or None,
            repetition=(self._repetitions, self._repetitions.begin(span_id_of(trace_id), attempt, path, body, known)),
            trace_id=trace_id,
        )


def _backend_id(headers: Mapping[str, str]) -> str | None:
    for key, value in headers.items():
        if key.lower() in _BACKEND_IDS:
            return value[:_LONGEST_ID] or None
    return None
