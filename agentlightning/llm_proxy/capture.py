"""From the wire to a span: what a model call's request and answer say, in the words of `llm_call_span`."""

from __future__ import annotations

import json
from typing import Any, TypeVar, get_origin

from agentlightning import semconv
from agentlightning.llm_proxy.exchange import Exchange
from agentlightning.types import OtelResource, Span, SpanContext, TraceStatus
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call

_NANOSECONDS = 1_000_000_000
_RESOURCE = OtelResource(attributes={"service.name": "agentlightning.gateway"}, schema_url="")

Json = dict[str, Any]
T = TypeVar("T")


def to_span(exchange: Exchange, sequence_id: int) -> Span:
    """Return the one span of a call; its status is ERROR if the call failed or its answer cannot be read."""
    call, status = _read(exchange)
    # Nothing in here comes from outside the two bodies, and validating thousands of token ids is slow.
    return Span.model_construct(
        rollout_id=exchange.rollout_id,
        attempt_id=exchange.attempt_id,
        sequence_id=sequence_id,
        trace_id=exchange.trace_id,
        span_id=exchange.span_id,
        parent_id=None,
        name=semconv.AGL_LLM_CALL,
        status=status,
        attributes=encode_call(call) | {"http.response.status_code": exchange.status},
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
    request = exchange.request.decode(errors="replace")
    failed = CapturedCall(request=request)
    if exchange.status >= 400:
        description = f"HTTP {exchange.status}: {exchange.response.decode(errors='replace')[:1000]}"
        return failed, TraceStatus(status_code="ERROR", description=description)
    try:
        return _read_reply(request, json.loads(exchange.response)), TraceStatus(status_code="OK")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # A backend may answer anything. The agent got it as it is; here it counts as a failed call.
        description = f"the answer has not the form of OpenAI's: {type(error).__name__}: {error}"
        return failed, TraceStatus(status_code="ERROR", description=description)


def _read_reply(request: str, reply: Json) -> CapturedCall:
    choices: list[Json] = reply["choices"]
    usage: Json = reply.get("usage") or {}
    return CapturedCall(
        request=request,
        model=_optional(str, json.loads(request).get("model")),
        prompt_token_ids=_prompt_token_ids(reply, choices),
        choices=[_read_choice(choice) for choice in choices],
        response_id=_optional(str, reply.get("id")),
        weights_version=_optional(int, reply.get("weights_version")),
        input_tokens=_optional(int, usage.get("prompt_tokens")),
        output_tokens=_optional(int, usage.get("completion_tokens")),
    )


def _prompt_token_ids(reply: Json, choices: list[Json]) -> list[int]:
    """The prompt stands in the reply, for vLLM's completions in each choice; several prompts count as none."""
    prompts = [_token_ids(choice.get("prompt_token_ids") or reply.get("prompt_token_ids")) for choice in choices]
    return prompts[0] if prompts and all(prompt == prompts[0] for prompt in prompts) else []


def _read_choice(choice: Json) -> CapturedChoice:
    provider: Json = choice.get("provider_specific_fields") or {}
    token_ids = _token_ids(choice.get("token_ids") or provider.get("token_ids"))
    return CapturedChoice(
        token_ids=token_ids,
        logprobs=_logprobs(choice.get("logprobs") or {}, len(token_ids)),
        finish_reason=_optional(str, choice.get("finish_reason")),
        message=choice.get("message") or {"role": "assistant", "content": choice.get("text")},
    )


def _token_ids(value: Any) -> list[int]:
    token_ids = _optional(list[Any], value) or []
    if not set(map(type, token_ids)) <= {int}:
        raise TypeError("token ids must be integers")
    return token_ids


def _logprobs(logprobs: Json, length: int) -> list[float] | None:
    content: list[Json] | None = logprobs.get("content")  # chat; completions have a list of numbers instead
    values: list[Any] = [token["logprob"] for token in content] if content else logprobs.get("token_logprobs") or []
    return [float(value) for value in values] if values and len(values) == length else None


def _optional(kind: type[T], value: Any) -> T | None:
    """Return a value that is of this type or None, for the store keeps attributes of the right types only."""
    if value is None or isinstance(value, get_origin(kind) or kind):
        return value
    raise TypeError(f"{str(value)[:80]!r} is a {type(value).__name__}")
