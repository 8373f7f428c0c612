"""Operations whose output is a model's answer, as Weave writes them: what went in and came out, spread over keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentlightning.adapter.sources.nested import nested_object, with_token_ids
from agentlightning.adapter.sources.provider_shape import to_chat
from agentlightning.semconv import LightningSpanAttributes
from agentlightning.types import LLMCall, Span
from agentlightning.types.chat_shape import Json, chat_calls, dicts, mapping

SOURCE: Final = "operation"

_INPUT: Final = f"{LightningSpanAttributes.OPERATION_INPUT.value}."
_OUTPUT: Final = f"{LightningSpanAttributes.OPERATION_OUTPUT.value}."
_ANSWERS: Final = tuple(f"{_OUTPUT}{key}." for key in ("choices.0", "response_token_ids", "output.0", "content.0"))


def read(span: Span, below: Sequence[Span]) -> list[LLMCall] | None:
    """Read an operation whose output has the shape of an answer."""
    if not any(key.startswith(_ANSWERS) for key in span.attributes):
        return None
    reply = nested_object(span.attributes, _OUTPUT)
    if "response_token_ids" in reply:
        reply["choices"] = with_token_ids(dicts(reply, "choices"), reply["response_token_ids"])
    bodies = to_chat(nested_object(span.attributes, _INPUT), reply)
    return chat_calls(span, SOURCE, *bodies) if bodies and all(map(_is_answer, dicts(bodies[1], "choices"))) else None


def _is_answer(choice: Json) -> bool:
    return bool(mapping(choice, "message")) or "token_ids" in choice or "provider_specific_fields" in choice
