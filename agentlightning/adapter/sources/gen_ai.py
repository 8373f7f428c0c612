"""OpenTelemetry's conventions for generative models: messages are JSON in one attribute each, if they are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, cast

from agentlightning.adapter.sources.nested import nested_object, objects
from agentlightning.adapter.sources.tool_schema import chat_tool
from agentlightning.types import Attributes, LLMCall, Span
from agentlightning.types.chat_shape import Json, chat_calls, load_list
from agentlightning.types.llm_call_span import FINISH_REASONS, REQUEST_MODEL, RESPONSE_ID

SOURCE: Final = "gen_ai"

_OPERATION: Final = "gen_ai.operation.name"
_CALLS: Final = frozenset({"chat", "text_completion", "generate_content"})


def read(span: Span, below: Sequence[Span]) -> list[LLMCall] | None:
    """Read a span of a chat or completion."""
    attributes = span.attributes
    if not _is_call(attributes):
        return None
    return chat_calls(span, SOURCE, request_of(attributes), reply_of(attributes))


def _is_call(attributes: Attributes) -> bool:
    if _OPERATION in attributes:
        return attributes[_OPERATION] in _CALLS
    return (REQUEST_MODEL in attributes or RESPONSE_ID in attributes) and "agentops.span.kind" not in attributes


def request_of(attributes: Attributes) -> Json:
    """Return the request in the chat shape."""
    instructions = _content(objects(load_list(attributes.get("gen_ai.system_instructions"))))
    system = [{"role": "system", "content": instructions}] if instructions else []
    said = [_message(each) for each in objects(load_list(attributes.get("gen_ai.input.messages")))]
    return nested_object(attributes, "gen_ai.request.") | {
        "messages": [*system, *said],
        "tools": [chat_tool(tool) for tool in objects(load_list(attributes.get("gen_ai.tool.definitions")))],
    }


def reply_of(attributes: Attributes) -> Json:
    """Return the answer in the chat shape."""
    said = objects(load_list(attributes.get("gen_ai.output.messages")))
    reasons = dict(enumerate(_reasons(attributes.get(FINISH_REASONS)) or [each.get("finish_reason") for each in said]))
    # Without its content an answer can still be joined, by its id, to who has seen more.
    messages = [_message(each) for each in said] or [{} for _ in [RESPONSE_ID] if RESPONSE_ID in attributes]
    choices = [
        {"message": message or {"role": "assistant", "content": None}, "finish_reason": reasons.get(index)}
        for index, message in enumerate(messages)
    ]
    usage = nested_object(attributes, "gen_ai.usage.")
    return nested_object(attributes, "gen_ai.response.") | {"choices": choices, "usage": usage}


def _reasons(value: Any) -> list[Any]:
    """Return the finish reasons, also of who writes the list as JSON."""
    return load_list(value) if isinstance(value, str) else list(cast("Sequence[Any]", value or ()))


def _message(said: Json) -> Json:
    parts = objects(said.get("parts"))
    calls = [_tool_call(part) for part in parts if part.get("type") == "tool_call"]
    answered = next((part for part in parts if part.get("type") == "tool_call_response"), None)
    if answered is not None:
        result = answered.get("response", answered.get("result"))
        return {"role": "tool", "tool_call_id": answered.get("id"), "content": _text(result)}
    message: Json = {"role": said.get("role"), "content": _content(parts)}
    return message | {"tool_calls": calls} if calls else message


def _content(parts: list[Json]) -> Any:
    """Return the text if there is nothing else, the parts in the chat shape otherwise."""
    said = [part for part in parts if part.get("type") in ("text", "blob", "uri")]
    if all(part["type"] == "text" for part in said):
        return "".join(_text(part.get("content")) for part in said) or None
    return [_part(part) for part in said]


def _part(part: Json) -> Json:
    if part["type"] == "text":
        return {"type": "text", "text": part.get("content")}
    url = part.get("uri") or f"data:{part.get('mime_type')};base64,{part.get('content')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool_call(part: Json) -> Json:
    function = {"name": part.get("name"), "arguments": _text(part.get("arguments", {}))}
    return {"id": part.get("id"), "type": "function", "function": function}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
