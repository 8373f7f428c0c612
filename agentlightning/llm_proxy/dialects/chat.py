"""OpenAI's Chat Completions and its elder sister, Completions: what is asked for, and what an answer says."""

from __future__ import annotations

from typing import Any, Final, TypeVar, cast, get_origin

from agentlightning._internal.json_text import read_json
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice

_TOKEN_FIELDS: Final[dict[str, dict[str, Any]]] = {
    "/chat/completions": {"return_token_ids": True, "logprobs": True},
    "/completions": {"return_token_ids": True, "logprobs": 1},
}
_READ: Final = frozenset({"choices", "id", "object", "prompt_token_ids", "weights_version"})
"""What of an answer has a place of its own in a `CapturedCall`."""

PATHS: Final = tuple(_TOKEN_FIELDS)
"""Where they are served, below a base URL."""

Json = dict[str, Any]
T = TypeVar("T")


def wanted_fields(path: str, payload: Json) -> Json:
    """Return what must be added to a request for its answer to name its tokens, their log-probabilities and counts."""
    # Here 0 counts as not asked for, too: completions with `logprobs: 0` get 1, which says no less.
    added = {key: value for key, value in _TOKEN_FIELDS[path].items() if not payload.get(key)}
    if payload.get("stream") and not wants_usage(payload):
        added["stream_options"] = _stream_options(payload) | {"include_usage": True}
    return added


def wants_usage(payload: Json) -> bool:
    """Whether the client itself asks for the last chunk of a stream, which holds only the usage."""
    return bool(_stream_options(payload).get("include_usage"))


def read_reply(request: str, reply: Json, model: str | None = None) -> CapturedCall:
    """Return what a request and its answer say; `model` spares looking up which one the request names.

    Raises:
        ValueError: The answer has not the form of OpenAI's; so have the errors below.
        TypeError: See there.
        KeyError: See there.
        AttributeError: See there.
    """
    choices: list[Json] = reply["choices"]
    usage: Json = reply.get("usage") or {}
    return CapturedCall(
        request=request,
        model=model if model is not None else _optional(str, read_json(request).get("model")),
        prompt_token_ids=_prompt_token_ids(reply, choices),
        choices=[_read_choice(choice) for choice in choices],
        response={key: value for key, value in reply.items() if key not in _READ and value is not None},
        response_id=_optional(str, reply.get("id")),
        weights_version=_optional(int, reply.get("weights_version")),
        input_tokens=_optional(int, usage.get("prompt_tokens")),
        output_tokens=_optional(int, usage.get("completion_tokens")),
    )


def _stream_options(payload: Json) -> Json:
    options = payload.get("stream_options")
    return cast("Json", options) if isinstance(options, dict) else {}


def _prompt_token_ids(reply: Json, choices: list[Json]) -> list[int]:
    """The prompt stands in the reply, for vLLM's completions in each choice; several prompts count as none."""
    prompts = [choice.get("prompt_token_ids") or reply.get("prompt_token_ids") for choice in choices]
    return _token_ids(prompts[0]) if prompts and all(prompt == prompts[0] for prompt in prompts[1:]) else []


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
