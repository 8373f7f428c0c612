"""OpenAI's Responses API in the shape of its chat completions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from agentlightning.adapter.sources.tool_schema import chat_tool
from agentlightning.types.chat_shape import Json, dicts, mapping, text

_NOT_SAMPLING: Final = frozenset({"input", "instructions", "tools"})
_NOT_KEPT: Final = frozenset({"output", "instructions", "tools", "token_ids", "prompt_token_ids"})


def request_to_chat(request: Json) -> Json:
    """Return the request with `messages` for its instructions and input items."""
    items = dicts(request, "input")
    if isinstance(request.get("input"), str):
        items = [{"role": "user", "content": request["input"]}]
    instructions = text(request, "instructions")
    system = [{"role": "system", "content": instructions}] if instructions else []
    sampling = {key: value for key, value in request.items() if key not in _NOT_SAMPLING}
    return sampling | {
        "messages": system + to_messages(items),
        "tools": [chat_tool(tool) for tool in dicts(request, "tools")],
    }


def reply_to_chat(reply: Json) -> Json:
    """Return the reply with its output items as the message of one choice."""
    items = dicts(reply, "output")
    message: Json = {"role": "assistant", "content": None}
    for part in to_messages(items):
        message |= {key: value for key, value in part.items() if value is not None}
    details = mapping(reply, "incomplete_details")
    ended = "tool_calls" if "tool_calls" in message else "stop"
    choice = {
        "message": message,
        "finish_reason": "length" if details.get("reason") == "max_output_tokens" else ended,
        "token_ids": reply.get("token_ids"),
    }
    kept = {key: value for key, value in reply.items() if key not in _NOT_KEPT and value is not None}
    return kept | {"choices": [choice], "prompt_token_ids": reply.get("prompt_token_ids")}


def to_messages(items: Iterable[Json]) -> list[Json]:
    """Return the messages for some items; what the assistant says and calls in one turn is one message."""
    messages: list[Json] = []
    for item in items:
        message = _message(item)
        last = messages[-1] if messages else {}
        if "tool_calls" in message and last.get("role") == "assistant":
            last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
        elif message:
            messages.append(message)
    return messages


def _message(item: Json) -> Json:
    match item.get("type", "message"):
        case "message":
            return {"role": item.get("role"), "content": _content(item.get("content"))}
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            return {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(item.get("output"))}
        case _:
            return {}  # what the model thought, and tools that the provider runs itself, have no place in a chat


def _content(content: Any) -> Any:
    """Return the text if there is nothing else, the parts in the chat shape otherwise."""
    if not isinstance(content, list):
        return content
    parts = [_part(part) for part in dicts({"content": content}, "content")]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Json) -> Json:
    match part.get("type"):
        case "input_text" | "output_text":
            return {"type": "text", "text": part.get("text", "")}
        case "refusal":
            return {"type": "text", "text": part.get("refusal", "")}
        case "input_image":
            return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
        case kind:
            return part | {"type": kind}
