"""From the wire to a span: what a model call's request and answer say, in the words of `llm_call_span`."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any, Final

from agentlightning import semconv
from agentlightning._internal.json_text import read_json
from agentlightning.llm_proxy.dialects.chat import read_reply
from agentlightning.llm_proxy.dialects.chat_stream import MergedChunks
from agentlightning.llm_proxy.events import EVENTS_PATH, event_fields, read_event
from agentlightning.llm_proxy.exchange import Exchange
from agentlightning.llm_proxy.pace import Pace
from agentlightning.llm_proxy.sse import read_slices
from agentlightning.store.construct import construct
from agentlightning.types import Attributes, OtelResource, Span, SpanContext, TraceStatus
from agentlightning.types.llm_call_span import (
    BACKEND,
    BACKEND_REQUEST_ID,
    HELD,
    REQUEST_ID,
    RETRIES,
    SUPERSEDES,
    CapturedCall,
    encode_call,
)

logger = logging.getLogger(__name__)

_NANOSECONDS: Final = 1_000_000_000
_RESOURCE = OtelResource(attributes={"service.name": "agentlightning.gateway"}, schema_url="")

Json = dict[str, Any]

_OTHER_FORM: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading an answer raises that is not of the expected form: a backend may answer anything."""


async def to_span(exchange: Exchange, pace: Pace) -> Span:
    """Return the one span of a call or an event; a call that failed or cannot be read has status ERROR.

    It has no sequence id yet. A stream of thousands of tokens takes a while, so it is read at this pace.
    """
    if exchange.path == EVENTS_PATH:
        fields = event_fields(*read_event(exchange.request))
        return _span(exchange, fields.name, fields.status, fields.attributes)
    call, status = await _read(exchange, pace)
    if exchange.weights_version is not None and call.weights_version is None and exchange.status < 400:
        call = replace(call, weights_version=exchange.weights_version)
    if exchange.asked:
        sent = exchange.request.decode(errors="replace")
        call = replace(call, client_request=sent, protocol=exchange.path.removeprefix("/"))
    return _span(exchange, semconv.AGL_LLM_CALL, status, encode_call(call) | _transport(exchange))


def _transport(exchange: Exchange) -> Attributes:
    """Return what is known of a call beside its two bodies."""
    attributes: Attributes = {"http.response.status_code": exchange.status}
    optional = {
        BACKEND: exchange.backend,
        RETRIES: exchange.retries or None,
        REQUEST_ID: exchange.request_id,
        BACKEND_REQUEST_ID: exchange.backend_request_id,
        SUPERSEDES: exchange.supersedes,
        HELD: exchange.held_ns / _NANOSECONDS or None,
    }
    return attributes | {key: value for key, value in optional.items() if value is not None}


def _span(exchange: Exchange, name: str, status: TraceStatus, attributes: Attributes) -> Span:
    # Nothing in here comes from outside the two bodies, and validating thousands of token ids is slow.
    context: Json = {"trace_id": exchange.trace_id, "span_id": exchange.span_id, "is_remote": False, "trace_state": {}}
    fields: Json = {
        "rollout_id": exchange.rollout_id,
        "attempt_id": exchange.attempt_id,
        "sequence_id": 0,
        "trace_id": exchange.trace_id,
        "span_id": exchange.span_id,
        "parent_id": None,
        "name": name,
        "status": status,
        "attributes": attributes,
        "events": [],
        "links": [],
        "start_time": exchange.start_ns / _NANOSECONDS,
        "end_time": exchange.end_ns / _NANOSECONDS,
        "start_time_ns": exchange.start_ns,
        "end_time_ns": exchange.end_ns,
        "context": construct(SpanContext, context),
        "parent": None,
        "resource": _RESOURCE,
    }
    return construct(Span, fields)


async def _read(exchange: Exchange, pace: Pace) -> tuple[CapturedCall, TraceStatus]:
    request = (exchange.asked or exchange.request).decode(errors="replace")
    failed = CapturedCall(request=request, streamed=exchange.streamed)
    if exchange.status >= 400:
        return failed, _error(f"HTTP {exchange.status}: {exchange.response.decode(errors='replace')[:1000]}")
    try:
        if exchange.streamed:
            return await _read_stream(exchange, request, pace)
        return read_reply(request, read_json(exchange.response), exchange.model), _ok()
    except _OTHER_FORM as error:
        # The agent got the answer as it is; here it counts as a failed call.
        return failed, _error(f"the answer has not the form of OpenAI's: {type(error).__name__}: {error}")


async def _read_stream(exchange: Exchange, request: str, pace: Pace) -> tuple[CapturedCall, TraceStatus]:
    merged, error = MergedChunks(), None
    for chunks in read_slices(exchange.response):
        error = error or next((chunk["error"] for chunk in chunks if chunk.get("error")), None)
        merged.add(_slim(chunk) for chunk in chunks if not chunk.get("error"))
        await pace.rest()
    first, asked = exchange.first_byte_ns, exchange.start_ns + exchange.held_ns
    call = replace(
        read_reply(request, merged.whole(), exchange.model),
        streamed=True,
        time_to_first_token=None if first is None else (first - asked) / _NANOSECONDS,
    )
    failure = _stream_failure(exchange, call, error)
    if failure is not None:
        partial = [choice.message for choice in call.choices]
        return replace(call, choices=[], partial=partial), _error(failure)
    return _without_gaps(call), _ok()


def _slim(chunk: Json) -> Json:
    """Return a chunk with the log-probabilities as plain numbers, as completions have them.

    Ten thousand tokens, each with its text, its bytes and its rivals, would keep the garbage collector busy.
    """
    for choice in chunk.get("choices") or ():
        logprobs: Json = choice.get("logprobs") or {}
        if tokens := logprobs.get("content"):
            choice["logprobs"] = {"token_logprobs": [token["logprob"] for token in tokens]}
    return chunk


def _stream_failure(exchange: Exchange, call: CapturedCall, error: Any) -> str | None:
    """Say why a stream holds no whole answer; None if it does, even if nobody waited for what follows the answer."""
    if error is not None:
        return f"the backend failed in the middle of its answer: {json.dumps(error)[:1000]}"
    expected = (read_json(call.request).get("n") if '"n"' in call.request else None) or 1
    if len(call.choices) >= expected and all(choice.finish_reason for choice in call.choices):
        return None
    return exchange.broken or "the stream ended before the answer: it names no finish reason"


def _without_gaps(call: CapturedCall) -> CapturedCall:
    """Return a call without its tokens if the stream left some out, as parsers of tool calls make some backends do."""
    named = sum(len(choice.token_ids) for choice in call.choices)
    if not named or call.output_tokens in (None, named):
        return call
    logger.warning(
        "the stream %s names %d of its %d tokens: the call cannot be trained on",
        call.response_id,
        named,
        call.output_tokens,
    )
    return replace(call, choices=[replace(choice, token_ids=[], logprobs=None) for choice in call.choices])


def _ok() -> TraceStatus:
    return construct(TraceStatus, {"status_code": "OK", "description": None})


def _error(description: str) -> TraceStatus:
    return TraceStatus(status_code="ERROR", description=description)
