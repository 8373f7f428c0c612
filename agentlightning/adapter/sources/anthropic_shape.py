"""Anthropic's Messages API in the shape of OpenAI's chat completions."""

from __future__ import annotations

import json
from typing import Any, Final

from agentlightning.adapter.sources.tool_schema import chat_tool
from agentlightning.types.chat_shape import Json, dicts, mapping, text

_NOT_SAMPLING: Final = frozenset({"messages", "system", "tools"})
_NOT_KEPT: Final = frozenset({"content", "stop_reason", "role", "type", "token_ids", "prompt_token_ids"})
_FINISH_REASONS: Final = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


def request_to_chat(request: Json) -> Json:
    """Return the request with its system prompt as the first message, and content blocks as messages."""
    system = _content(_blocks(request.get("system")))
    messages = [{"role": "system", "content": system}] if system else []
    messages += [message for each in dicts(request, "messages") for message in _messages(each)]
    sampling = {key: value for key, value in request.items() if key not in _NOT_SAMPLING}
    return sampling | {"messages": messages, "tools": [chat_tool(tool) for tool in dicts(request, "tools")]}


def reply_to_chat(reply: Json) -> Json:
    """Return the reply with its content blocks as the message of one choice."""
    reason = text(reply, "stop_reason")
    choice = {
        "message": _assistant(dicts(reply, "content")),
        "finish_reason": _FINISH_REASONS.get(reason, reason) if reason else None,
        "token_ids": reply.get("token_ids"),
    }
    kept = {key: value for key, value in reply.items() if key not in _NOT_KEPT and value is not None}
    return kept | {"choices": [choice], "prompt_token_ids": reply.get("prompt_token_ids")}


def _messages(message: Json) -> list[Json]:
    """Return the messages for one of Anthropic's: each tool's result is a message of its own, before the text."""
    blocks = _blocks(message.get("content"))
    if message.get("role") == "assistant":
        return [_assistant(blocks)]
    results = [
        {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _content(_blocks(block.get("content")))}
        for block in blocks
        if block.get("type") == "tool_result"
    ]
    rest = [block for block in blocks if block.get("type") != "tool_result"]
    return [*results, {"role": message.get("role"), "content": _content(rest)}] if rest or not results else results


def _assistant(blocks: list[Json]) -> Json:
    calls = [_tool_call(block) for block in blocks if block.get("type") == "tool_use"]
    # What the model thought is no part of a chat's message.
    said = [block for block in blocks if block.get("type") not in ("tool_use", "thinking", "redacted_thinking")]
    message: Json = {"role": "assistant", "content": _content(said) or None}
    return message | {"tool_calls": calls} if calls else message


def _blocks(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else dicts({"content": content}, "content")


def _content(blocks: list[Json]) -> Any:
    """Return the text if there is nothing else, the parts in the chat shape otherwise."""
    if all(block.get("type") == "text" for block in blocks):
        return "".join(block.get("text", "") for block in blocks)
    return [_part(block) for block in blocks]


def _part(block: Json) -> Json:
    if block.get("type") == "text":
        return {"type": "text", "text": block.get("text", "")}
    source = mapping(block, "source")
    if block.get("type") != "image" or not source:
        return block
    url = source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool_call(block: Json) -> Json:
    function = {"name": block.get("name"), "arguments": json.dumps(block.get("input"))}
    return {"id": block.get("id"), "type": "function", "function": function}
