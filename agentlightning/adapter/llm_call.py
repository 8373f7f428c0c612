"""The normaliser: spans in, one `LLMCall` per answer of a model out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentlightning import semconv
from agentlightning.adapter.reading import CallReading, SeenCall, Sighting
from agentlightning.types import LLMCall, Span
from agentlightning.types.llm_call_span import decode_calls


def read_calls(spans: Sequence[Span]) -> CallReading:
    """Read the model calls among the spans of a rollout, in order, with everybody who saw them and those that failed."""
    return CallReading(
        [
            SeenCall(
                answers=(call,),
                sightings=(Sighting(span_id=call.span_id, name="", source=call.source, answers=(call,)),),
            )
            for call in llm_calls(spans)
        ]
    )


def llm_calls(spans: Sequence[Span]) -> list[LLMCall]:
    """Read the model calls among the spans of a rollout, in order.

    Calls are ordered by sequence id, then by start time; each of the `n` answers to one request is a record of its
    own. Failed calls are left out. A call that several sources saw (the gateway and an instrumented SDK, say) is one
    call: the source with tokens wins, the gateway before others.
    """
    succeeded = (span for span in in_order(spans) if span.status.status_code != "ERROR")
    return _without_copies((span.name, call) for span in succeeded for call in decode_calls(span))


def in_order(spans: Iterable[Span]) -> list[Span]:
    """Sort spans by sequence id, then by start."""
    return sorted(
        spans, key=lambda span: (span.sequence_id, span.start_time_ns or int((span.start_time or 0.0) * 1_000_000_000))
    )


def _without_copies(sightings: Iterable[tuple[str, LLMCall]]) -> list[LLMCall]:
    """Keep, of the sightings with one response id, those of the best source.

    Two sightings by one source are two calls even then: some backends give every answer the same id.
    """
    named = list(sightings)
    best: dict[tuple[str, str | None, int], tuple[bool, bool, str]] = {}
    for source, call in named:
        key, rank = (call.attempt_id, call.response_id, call.choice), _rank(source, call)
        if key not in best or rank > best[key]:
            best[key] = rank
    return [
        call
        for source, call in named
        if call.response_id is None or source == best[call.attempt_id, call.response_id, call.choice][-1]
    ]


def _rank(source: str, call: LLMCall) -> tuple[bool, bool, str]:
    return bool(call.response_token_ids), source == semconv.AGL_LLM_CALL, source
