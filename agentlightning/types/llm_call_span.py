"""How a model call stands in the attributes of a span: the one place that writer and reader share.

The gateway writes with `encode_call`, adapters read with `decode_calls`. The request is kept as the text that was
sent, so messages, tools and sampling parameters are stored once; token ids and log-probabilities are plain lists. A
request that came by another API is kept as a chat's, as the backend was asked, and as the client sent it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from agentlightning.types.chat_shape import chat_calls, load_dict, load_list
from agentlightning.types.llm_call import LLMCall
from agentlightning.types.tracer import Attributes, Span

PROMPT_TOKEN_IDS: Final = "prompt_token_ids"
RESPONSE_TOKEN_IDS: Final = "response_token_ids"
LOGPROBS: Final = "agentlightning.llm_call.logprobs"
REQUEST: Final = "agentlightning.llm_call.request"
CLIENT_REQUEST: Final = "agentlightning.llm_call.client_request"
PROTOCOL: Final = "agentlightning.llm_call.protocol"
MESSAGES: Final = "agentlightning.llm_call.messages"
RESPONSE: Final = "agentlightning.llm_call.response"
PARTIAL: Final = "agentlightning.llm_call.partial"
STREAMED: Final = "agentlightning.llm_call.streamed"
TIME_TO_FIRST_TOKEN: Final = "agentlightning.llm_call.time_to_first_token"
WEIGHTS_VERSION: Final = "agentlightning.llm_call.weights_version"
BACKEND: Final = "agentlightning.llm_call.backend"
REQUEST_ID: Final = "agentlightning.llm_call.request_id"
BACKEND_REQUEST_ID: Final = "agentlightning.llm_call.backend_request_id"
HELD: Final = "agentlightning.llm_call.held"
SUPERSEDES: Final = "agentlightning.llm_call.supersedes"
RETRIES: Final = "http.request.resend_count"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

SOURCE: Final = "gateway"
"""`LLMCall.source` of what the gateway captured."""


@dataclass(slots=True, kw_only=True)
class CapturedChoice:
    """One answer of a call.

    Attributes:
        token_ids: The sampled tokens; empty when the backend names none.
        logprobs: Natural-log probability of each sampled token, or None.
        finish_reason: Why sampling ended.
        message: The answer as received.
    """

    token_ids: list[int]
    logprobs: list[float] | None
    finish_reason: str | None
    message: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class CapturedCall:
    """One call as it went over the wire. Nobody changes it; to freeze it would double what making it costs.

    Attributes:
        request: The request's JSON text as the agent sent it; of another API, as the gateway made a chat's of it.
        client_request: The JSON text as the agent sent it, of another API; None for a chat.
        protocol: The other API: `messages` or `responses`; None for a chat.
        model: The model's name as requested.
        prompt_token_ids: The tokens the model was given; empty when the backend names none.
        choices: The answers; empty when the call failed.
        partial: What came of the answers' messages before a stream broke off; empty otherwise.
        response: What else the answer said, such as `model` and `usage`.
        streamed: Whether the answer came as a stream.
        time_to_first_token: Seconds until a stream said something beyond the role, without those for which the call was
            held, or None.
        response_id: The id the backend gave the answer.
        weights_version: Version of the weights that sampled, or None.
        input_tokens: The backend's count of prompt tokens, or None.
        output_tokens: The backend's count of sampled tokens, or None.
    """

    request: str
    client_request: str | None = None
    protocol: str | None = None
    model: str | None = None
    prompt_token_ids: list[int] = field(default_factory=list[int])
    choices: list[CapturedChoice] = field(default_factory=list[CapturedChoice])
    partial: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    response: dict[str, Any] = field(default_factory=dict[str, Any])
    streamed: bool = False
    time_to_first_token: float | None = None
    response_id: str | None = None
    weights_version: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def encode_call(call: CapturedCall) -> Attributes:
    """Return the span attributes of a call; the choices behind the first have their index in the key."""
    optional = {
        REQUEST_MODEL: call.model,
        CLIENT_REQUEST: call.client_request,
        PROTOCOL: call.protocol,
        RESPONSE_ID: call.response_id,
        WEIGHTS_VERSION: call.weights_version,
        INPUT_TOKENS: call.input_tokens,
        OUTPUT_TOKENS: call.output_tokens,
        STREAMED: call.streamed or None,
        TIME_TO_FIRST_TOKEN: call.time_to_first_token,
        RESPONSE: json.dumps(call.response) if call.response else None,
        PARTIAL: json.dumps(call.partial) if call.partial else None,
    }
    attributes: Attributes = {key: value for key, value in optional.items() if value is not None}
    attributes[REQUEST] = call.request
    if not call.choices:
        return attributes
    attributes[FINISH_REASONS] = [choice.finish_reason or "" for choice in call.choices]
    attributes[MESSAGES] = json.dumps([choice.message for choice in call.choices])
    attributes[PROMPT_TOKEN_IDS] = call.prompt_token_ids
    for index, choice in enumerate(call.choices):
        attributes[_indexed(RESPONSE_TOKEN_IDS, index)] = choice.token_ids
        if choice.logprobs is not None:
            attributes[_indexed(LOGPROBS, index)] = choice.logprobs
    return attributes


def decode_calls(span: Span) -> list[LLMCall]:
    """Read the calls of a span of the gateway, one record per choice; empty for a call that got no answer."""
    attributes = span.attributes
    messages = load_list(attributes.get(MESSAGES))
    finish_reasons = cast("Sequence[str]", attributes.get(FINISH_REASONS) or ())
    choices = [
        {
            "message": message,
            "finish_reason": finish_reasons[index] if index < len(finish_reasons) else None,
            "token_ids": attributes.get(_indexed(RESPONSE_TOKEN_IDS, index)),
            "logprobs": attributes.get(_indexed(LOGPROBS, index)),
        }
        for index, message in enumerate(messages)
    ]
    reply = load_dict(attributes.get(RESPONSE)) | {
        "id": attributes.get(RESPONSE_ID),
        "choices": choices,
        "prompt_token_ids": attributes.get(PROMPT_TOKEN_IDS),
        "weights_version": attributes.get(WEIGHTS_VERSION),
    }
    request = load_dict(attributes.get(REQUEST)) | {"stream": attributes.get(STREAMED) is True}
    return chat_calls(span, SOURCE, request, reply)


def _indexed(key: str, index: int) -> str:
    return key if index == 0 else f"{key}.{index}"
