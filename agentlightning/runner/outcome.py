"""What an agent returned, as spans of its attempt."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_span_id

from agentlightning.emitter import emit_reward
from agentlightning.emitter.reward import PRIMARY
from agentlightning.errors import InvalidResult
from agentlightning.tracer.active import ActiveTrace
from agentlightning.types import Span, SpanCoreFields

logger = logging.getLogger(__name__)


def record_result(result: Any, trace: ActiveTrace) -> None:
    """Record an agent's result into its trace, which must be the active one.

    | result | recorded |
    |---|---|
    | None | nothing: the agent emitted what it wanted |
    | a finite number of any kind | a reward |
    | a mapping of names to numbers | a reward in several dimensions; `primary`, or else the first, is the primary one |
    | a list or tuple of `ReadableSpan`, `Span` or `SpanCoreFields` | the spans, unless they were captured already |

    Raises:
        InvalidResult: Anything else.
    """
    if result is None:
        return
    if isinstance(result, Mapping):
        rewards = cast("Mapping[str, Any]", result)
        if not rewards:
            raise InvalidResult("an agent returned an empty dict: return None for no reward")
        emit_reward(rewards, primary_key=PRIMARY if PRIMARY in rewards else next(iter(rewards), None))
    elif isinstance(result, (list, tuple)):
        _record_spans(cast("Sequence[Any]", result), trace)
    elif isinstance(result, str) or not _is_number_like(result):
        raise InvalidResult(
            f"an agent returned a {type(result).__name__}: {result!r:.100}. "
            "Return None, a number, a dict of numbers, or a list of spans"
        )
    else:
        emit_reward(result)


def _is_number_like(result: Any) -> bool:
    return hasattr(result, "__float__")


def _record_spans(spans: Sequence[Any], trace: ActiveTrace) -> None:
    if not spans:
        logger.warning("The agent of rollout %s returned an empty list: no spans, no reward", trace.rollout_id)
    for kind, record in ((ReadableSpan, _record_readable), (Span, _record_span), (SpanCoreFields, _record_core)):
        if all(isinstance(span, kind) for span in spans):
            known = {span.span_id for span in trace.spans()}
            for span in spans:
                record(span, trace, known)
            return
    kinds = sorted({type(span).__name__ for span in spans})
    raise InvalidResult(
        f"an agent returned a list of {', '.join(kinds)}: spans are all ReadableSpan, all Span or all SpanCoreFields; "
        "for several rewards return a dict"
    )


def _record_readable(span: ReadableSpan, trace: ActiveTrace, known: set[str]) -> None:
    context = span.get_span_context()
    if context is None or format_span_id(context.span_id) not in known:
        trace.add(functools.partial(Span.from_opentelemetry, span))


def _record_span(span: Span, trace: ActiveTrace, known: set[str]) -> None:
    for field, own in (("rollout_id", trace.rollout_id), ("attempt_id", trace.attempt_id)):
        given = getattr(span, field)
        if given not in ("", own):
            raise InvalidResult(f"span {span.name!r} has the {field} {given!r}, but the agent runs {own!r}")
    if span.span_id not in known:
        trace.add(functools.partial(with_identity, span), span.sequence_id or None)


def _record_core(core: SpanCoreFields, trace: ActiveTrace, known: set[str]) -> None:
    trace.add(functools.partial(Span.from_core_fields, core))


def with_identity(span: Span, *, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
    """Return the span as one of an attempt, at its place in the order."""
    return span.model_copy(update={"rollout_id": rollout_id, "attempt_id": attempt_id, "sequence_id": sequence_id})
