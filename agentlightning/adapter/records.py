"""What an attempt leaves, as records that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final, Literal, TypeAlias

from agentlightning.adapter.messages import TraceToMessages
from agentlightning.adapter.trajectory import TraceToTrajectories
from agentlightning.adapter.triplet import TracerTraceToTriplet
from agentlightning.emitter import find_final_reward
from agentlightning.types import Rollout, Span

RecordKind: TypeAlias = Literal["messages", "triplets", "rows", "spans"]
"""A record of each call's conversation, of each call's tokens and reward, of each training row, or of each span."""

Record: TypeAlias = dict[str, Any]


def records_of(rollout: Rollout, spans: Sequence[Span], kind: RecordKind) -> Iterator[Record]:
    """Yield the records of one attempt of a rollout, each with the id, mode, status and final reward of the rollout."""
    identity = {
        "rollout_id": rollout.rollout_id,
        "attempt_id": spans[0].attempt_id if spans else None,
        "mode": rollout.mode,
        "rollout_status": rollout.status,
        "final_reward": find_final_reward(spans),
    }
    for record in _MAKERS[kind](spans):
        yield {**identity, **record}


def _messages(spans: Sequence[Span]) -> Iterator[Record]:
    yield from (dict(conversation) for conversation in TraceToMessages().adapt(spans))


def _triplets(spans: Sequence[Span]) -> Iterator[Record]:
    yield from (triplet.model_dump(mode="json") for triplet in TracerTraceToTriplet().adapt(spans))


def _rows(spans: Sequence[Span]) -> Iterator[Record]:
    yield from (asdict(row) for row in TraceToTrajectories().adapt(spans))


def _spans(spans: Sequence[Span]) -> Iterator[Record]:
    yield from (span.model_dump(mode="json") for span in spans)


_MAKERS: Final[dict[RecordKind, Callable[[Sequence[Span]], Iterator[Record]]]] = {
    "messages": _messages,
    "triplets": _triplets,
    "rows": _rows,
    "spans": _spans,
}
