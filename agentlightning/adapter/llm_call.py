"""The normaliser: spans in, one `LLMCall` per answer of a model out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from agentlightning.adapter.garbage import collected_afterwards
from agentlightning.adapter.joining import Group, Seen, join
from agentlightning.adapter.reading import CallReading, SeenCall
from agentlightning.adapter.sighting import sightings
from agentlightning.types import LLMCall, Span
from agentlightning.types.llm_call_span import SOURCE as GATEWAY

T = TypeVar("T")


def llm_calls(spans: Sequence[Span]) -> list[LLMCall]:
    """Read the model calls among the spans of a rollout, in order.

    Calls are ordered by sequence id, then by start time; each of the `n` answers to one request is a record of its
    own. Failed calls are left out. A call that several sources saw (the gateway and an instrumented SDK, say) is one
    call: the source with tokens wins, the gateway before others, and the others fill in what it does not know.
    """
    return read_calls(spans).calls


def read_calls(spans: Sequence[Span]) -> CallReading:
    """Read the model calls among the spans of a rollout, in order: who saw each, and which failed."""
    return read_distinct(once(in_order(spans)))


@collected_afterwards()
def read_distinct(ordered: Sequence[Span]) -> CallReading:
    """Read the model calls among spans that are in order already, each of which comes once."""
    seen = [Seen(span, sighting) for span, sighting in sightings(ordered)]
    position = {each.span.span_id: number for number, each in enumerate(seen)}
    calls = [_seen_call(group) for group in join(seen, ordered)]
    return CallReading(sorted(calls, key=lambda call: position[call.sightings[0].span_id]))


def in_order(spans: Iterable[Span]) -> list[Span]:
    """Sort spans by sequence id, then by start; those that began together by their id, to be the same for everybody."""
    return sorted(spans, key=lambda span: (span.sequence_id, _start_ns(span), span.span_id))


def once(spans: Iterable[Span]) -> list[Span]:
    """Drop spans that come a second time, as where traces were put together."""
    known = {(each.rollout_id, each.attempt_id, each.trace_id, each.span_id, _start_ns(each)): each for each in spans}
    return list(known.values())


def _start_ns(span: Span) -> int:
    return span.start_time_ns or int((span.start_time or 0.0) * 1_000_000_000)


def _seen_call(group: Group) -> SeenCall:
    found = [each.sighting for each in reversed(group.members)]  # of equals, the one nearest to the wire
    if len(found) == 1:
        return SeenCall(answers=found[0].answers, sightings=(found[0],))
    ranked = sorted(found, key=lambda each: max(map(_rank, each.answers), default=()), reverse=True)
    span_ids = tuple([each.span_id for each in ranked])
    by_choice: dict[int, list[LLMCall]] = {}
    for each in ranked:
        for answer in each.answers:
            by_choice.setdefault(answer.choice, []).append(answer)
    answers = tuple([_answer(by_choice[choice], span_ids) for choice in sorted(by_choice)])
    return SeenCall(answers=answers, sightings=tuple(ranked))


def _rank(answer: LLMCall) -> tuple[bool, ...]:
    tokens = bool(answer.prompt_token_ids) and bool(answer.response_token_ids)
    return tokens, answer.source == GATEWAY, answer.response_logprobs is not None, bool(answer.messages)


def _answer(records: list[LLMCall], span_ids: tuple[str, ...]) -> LLMCall:
    """Return the best of the records of one answer; what it does not know is taken from the next best."""
    records.sort(key=_rank, reverse=True)
    best = records[0]
    sent = best if best.messages else next((each for each in records if each.messages), best)
    return replace(
        best,
        messages=sent.messages,
        tools=sent.tools,
        sampling=sent.sampling,
        temperature=sent.temperature,
        message=next((each.message for each in records if _says(each.message)), best.message),
        model=_first([each.model for each in records]),
        response_id=_first([each.response_id for each in records]),
        finish_reason=_first([each.finish_reason for each in records]),
        weights_version=_first([each.weights_version for each in records]),
        response=best.response or sent.response,
        streamed=any(each.streamed for each in records),
        span_ids=(best.span_id, *(each for each in span_ids if each != best.span_id)),
    )


def _first(values: Iterable[T | None]) -> T | None:
    for value in values:
        if value is not None:
            return value
    return None


def _says(message: dict[str, Any]) -> bool:
    return bool(message.get("content") or message.get("tool_calls"))
