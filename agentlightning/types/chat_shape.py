"""A request and its answer in the shape of OpenAI's chat completions, as records.

Every source of calls is brought to this shape first, so what an `LLMCall` holds is decided here alone. Sources are
foreign: what is malformed counts as absent, and never raises.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from pydantic_core import from_json

from agentlightning.types.llm_call import LLMCall
from agentlightning.types.tracer import Span

Json = dict[str, Any]

_NOT_SAMPLING: Final = frozenset({"model", "messages", "prompt", "tools", "stream"})
_NOT_KEPT: Final = frozenset({"choices", "prompt_token_ids", "response_token_ids", "token_ids", "logprobs"})


def chat_calls(span: Span, source: str, request: Json, reply: Json) -> list[LLMCall]:
    """Return one record per choice of the reply; none when it has no choices.

    Args:
        span: The span that says so; it gives the record its place.
        source: The form the span is written in.
        request: The body of the request.
        reply: The body of the answer; each choice may hold `token_ids`, and `logprobs` also as a plain list.
    """
    return [
        _record(span, source, request, reply, index, choice) for index, choice in enumerate(dicts(reply, "choices"))
    ]


def _record(span: Span, source: str, request: Json, reply: Json, index: int, choice: Json) -> LLMCall:
    sampled = token_ids(choice.get("token_ids") or mapping(choice, "provider_specific_fields").get("token_ids"))
    sampling = {key: value for key, value in request.items() if key not in _NOT_SAMPLING}
    return LLMCall(
        rollout_id=span.rollout_id,
        attempt_id=span.attempt_id,
        sequence_id=span.sequence_id,
        start_time=span.start_time or 0.0,
        end_time=span.end_time or 0.0,
        prompt_token_ids=token_ids(choice.get("prompt_token_ids") or reply.get("prompt_token_ids")),
        response_token_ids=sampled,
        response_logprobs=_logprobs(choice.get("logprobs"), len(sampled)),
        temperature=_temperature(sampling.get("temperature")),
        sampling=sampling,
        finish_reason=text(choice, "finish_reason"),
        weights_version=_integer(reply.get("weights_version")),
        model=text(request, "model"),
        response_id=text(reply, "id"),
        choice=index,
        messages=dicts(request, "messages"),
        message=mapping(choice, "message") or {"role": "assistant", "content": choice.get("text")},
        tools=dicts(request, "tools") or None,
        response={key: value for key, value in reply.items() if key not in _NOT_KEPT},
        streamed=request.get("stream") is True,
        source=source,
        span_id=span.span_id,
        span_ids=(span.span_id,),
    )


def dicts(data: Mapping[str, Any], key: str) -> list[Json]:
    """Return the list of objects under a key; empty for anything else."""
    value = data.get(key)
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def mapping(data: Mapping[str, Any], key: str) -> Json:
    """Return the object under a key; empty for anything else."""
    value = data.get(key)
    return cast("Json", value) if isinstance(value, dict) else {}


def text(data: Mapping[str, Any], key: str) -> str | None:
    """Return the text under a key; None for an empty one and anything else."""
    value = data.get(key)
    return value if isinstance(value, str) and value else None


def load_dict(value: Any) -> Json:
    """Return the JSON object in a text; empty for anything else."""
    loaded = _load(value)
    return cast("Json", loaded) if isinstance(loaded, dict) else {}


def load_list(value: Any) -> list[Any]:
    """Return the JSON list in a text; empty for anything else."""
    loaded = _load(value)
    return cast("list[Any]", loaded) if isinstance(loaded, list) else []


def _load(value: Any) -> Any:
    if not isinstance(value, str):
        return None
    try:
        return from_json(value)
    except ValueError:  # half a character, or more levels than its reader follows: the slower one takes both
        pass
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def token_ids(value: Any) -> list[int]:
    """Return the token ids; empty for anything but a list of integers of 32 bits."""
    if not isinstance(value, (list, tuple)) or not value:
        return []
    items = cast("list[int]", value if isinstance(value, list) else list(cast("Sequence[Any]", value)))
    try:
        array("I", items)
    except (TypeError, OverflowError):
        return []
    return items if list(map(type, items)).count(int) == len(items) else []


def _integer(value: Any) -> int | None:
    return value if type(value) is int else None


def _temperature(value: Any) -> float:
    numbers = _floats([value]) or [1.0]
    return numbers[0] if numbers[0] >= 0 else 1.0


def _logprobs(value: Any, length: int) -> list[float] | None:
    """Return the log-probabilities if there is a number for each token."""
    if isinstance(value, dict):
        logprobs = cast("Json", value)
        tokens = dicts(logprobs, "content")  # chat; completions have a list of numbers instead
        value = [token.get("logprob") for token in tokens] if tokens else logprobs.get("token_logprobs")
    if not isinstance(value, (list, tuple)) or len(cast("Sequence[Any]", value)) != length:
        return None
    return _floats(list(cast("Sequence[Any]", value)))


def _floats(numbers: list[Any]) -> list[float] | None:
    """Return the numbers as floats; None if there is anything but finite numbers among them."""
    kinds = set(map(type, numbers))
    if not kinds <= {int, float}:
        return None
    try:
        floats = numbers if int not in kinds else [float(number) for number in numbers]
    except OverflowError:  # an integer beyond all floats
        return None
    return floats if math.isfinite(sum(floats)) else None
