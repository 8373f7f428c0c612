"""Requests and answers of other protocols in the shape of OpenAI's chat completions."""

from __future__ import annotations

from agentlightning.adapter.sources import anthropic_shape, responses_shape
from agentlightning.types.chat_shape import Json, dicts


def to_chat(request: Json, reply: Json) -> tuple[Json, Json] | None:
    """Return both in the chat shape; None when the answer has no shape that is known."""
    if dicts(reply, "choices"):
        return request, reply
    if dicts(reply, "output"):
        return responses_shape.request_to_chat(request), responses_shape.reply_to_chat(reply)
    if dicts(reply, "content") and "stop_reason" in reply:
        return anthropic_shape.request_to_chat(request), anthropic_shape.reply_to_chat(reply)
    return None
