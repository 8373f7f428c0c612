"""From the wire to a span: what a model call's request and answer say, in the words of `llm_call_span`."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any, Final

from agentlightning import semconv
from agentlightning.llm_proxy.dialects.chat import read_reply
from agentlightning.llm_proxy.dialects.chat_stream import merge_chunks
from agentlightning.llm_proxy.events import EVENTS_PATH, event_fields, read_event
from agentlightning.llm_proxy.exchange import Exchange
from agentlightning.llm_proxy.sse import read_stream
from agentlightning.types import Attributes, OtelResource, Span, SpanContext, TraceStatus
from agentlightning.types.llm_call_span import (
    BACKEND,
    BACKEND_REQUEST_ID,
    REQUEST_ID,
    RETRIES,
    SUPERSEDES,
    CapturedCall,
    encode_call,
)

logger = logging.getLogger(__name__)

_NANOSECONDS: Final = 1_000_000_000
_RESOURCE = OtelResource(attributes={"service.name": "agentlightning.gateway"}, schema_url="")
_OTHER_FORM: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading an answer raises that is not of the expected form: a backend may answer anything."""

Json = dict[str, Any]


def to_span(exchange: Exchange, sequence_id: int) -> Span:
    """Return the one span of a call or an event; a call that failed or cannot be read has status ERROR."""
    if exchange.path == EVENTS_PATH:
        fields = event_fields(*read_event(exchange.request))
        return _span(exchange, sequence_id, fields.name, fields.status, fields.attributes)
    call, status = _read(exchange)
    if exchange.asked:
        sent = exchange.request.decode(errors="replace")
        call = replace(call, client_request=sent, protocol=exchange.path.removeprefix("/"))
    return _span(exchange, sequence_id, semconv.AGL_LLM_CALL, status, encode_call(call) | _transport(exchange))


def _transport(exchange: Exchange) -> Attributes:
    """Return what is known of a call beside its two bodies."""
    attributes: Attributes = {"http.response.status_code": exchange.status}
    optional = {
        BACKEND: exchange.backend,
        RETRIES: exchange.retries or None,
        REQUEST_ID: exchange.request_id,
        BACKEND_REQUEST_ID: exchange.backend_request_id,
        SUPERSEDES: exchange.supersedes,
    }
    return attributes | {key: value for key, value in optional.items() if value is not None}


def _span(exchange: Exchange, sequence_id: int, name: str, status: TraceStatus, attributes: Attributes) -> Span:
    # Nothing in here comes from outside the two bodies, and validating thousands of token ids is slow.
    return Span.model_construct(
        rollout_id=exchange.rollout_id,
        attempt_id=exchange.attempt_id,
        sequence_id=sequence_id,
        trace_id=exchange.trace_id,
        span_id=exchange.span_id,
        parent_id=None,
        name=name,
        status=status,
        attributes=attributes,
        events=[],
        links=[],
        start_time=exchange.start_ns / _NANOSECONDS,
        end_time=exchange.end_ns / _NANOSECONDS,
        start_time_ns=exchange.start_ns,
        end_time_ns=exchange.end_ns,
        context=SpanContext(trace_id=exchange.trace_id, span_id=exchange.span_id, is_remote=False, trace_state={}),
        parent=None,
        resource=_RESOURCE,
    )


def _read(exchange: Exchange) -> tuple[CapturedCall, TraceStatus]:
    request = (exchange.asked or exchange.request).decode(errors="replace")
    failed = CapturedCall(request=request, streamed=exchange.streamed)
    if exchange.status >= 400:
        return failed, _error(f"HTTP {exchange.status}: {exchange.response.decode(errors='replace')[:1000]}")
    try:
        if exchange.streamed:
            return _read_stream(exchange, request)
        return read_reply(request, json.loads(exchange.response)), TraceStatus(status_code="OK")
    except _OTHER_FORM as error:
        # The agent got the answer as it is; here it counts as a failed call.
        return failed, _error(f"the answer has not the form of OpenAI's: {type(error).__name__}: {error}")


def _read_stream(exchange: Exchange, request: str) -> tuple[CapturedCall, TraceStatus]:
    chunks = read_stream(exchange.response)
    first = exchange.first_byte_ns
    call = replace(
        read_reply(request, merge_chunks(chunk for chunk in chunks if not chunk.get("error"))),
        streamed=True,
        time_to_first_token=None if first is None else (first - exchange.start_ns) / _NANOSECONDS,
    )
    failure = _stream_failure(exchange, call, chunks)
    if failure is not None:
        partial = [choice.message for choice in call.choices]
        return replace(call, choices=[], partial=partial), _error(failure)
    return _without_gaps(call), TraceStatus(status_code="OK")


def _stream_failure(exchange: Exchange, call: CapturedCall, chunks: list[Json]) -> str | None:
    """Say why a stream holds no whole answer; None if it does, even if nobody waited for what follows the answer."""
    error = next((chunk["error"] for chunk in chunks if chunk.get("error")), None)
    if error is not None:
        return f"the backend failed in the middle of its answer: {json.dumps(error)[:1000]}"
    expected = json.loads(call.request).get("n") or 1
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


def _error(description: str) -> TraceStatus:
    return TraceStatus(status_code="ERROR", description=description)
