"""Requests to OpenAI's Responses API as requests for a chat completion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from agentlightning.errors import InvalidRequest
from agentlightning.llm_proxy.dialects.blocks import thoughts_key

Json = dict[str, Any]

_TRANSLATED: Final = frozenset(
    {"input", "instructions", "max_output_tokens", "previous_response_id", "reasoning", "text", "tool_choice", "tools"}
)
_MEANINGLESS: Final = frozenset(
    {
        "context_management",
        "include",
        "max_tool_calls",
        "metadata",
        "store",
        "stream_options",
        "top_logprobs",
        "truncation",
    }
)
"""What is about OpenAI's own service, or is the gateway's to answer."""
_REFUSED: Final = frozenset({"background", "conversation", "prompt"})
_TEXTS: Final = frozenset({"input_text", "output_text", "text", "refusal"})


def to_chat(payload: Json, history: Sequence[Json]) -> Json:
    """Return the request for a chat completion; fields that are not OpenAI's go through as they are.

    Args:
        payload: The client's request.
        history: The messages before its input.

    Raises:
        InvalidRequest: Something that a chat has no form for.
    """
    refused = [key for key in sorted(_REFUSED) if payload.get(key)] + (
        ["n"] if payload.get("n") not in (None, 1) else []
    )
    if refused:
        raise InvalidRequest(f"the gateway cannot serve {refused}: chat completions have no such thing for Responses")
    chat = {key: value for key, value in payload.items() if key not in _TRANSLATED | _MEANINGLESS | _REFUSED}
    instructions = payload.get("instructions")
    system = [{"role": "system", "content": instructions}] if instructions else []
    chat["messages"] = [*system, *history, *input_messages(payload)]
    if payload.get("max_output_tokens") is not None:
        chat["max_tokens"] = payload["max_output_tokens"]
    reasoning: Json = payload.get("reasoning") or {}
    if reasoning.get("effort"):
        chat["reasoning_effort"] = reasoning["effort"]
    return chat | _tools(payload) | _output(payload)


def input_messages(payload: Json) -> list[Json]:
    """Return the messages of the input alone."""
    given = payload.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return to_messages(cast("list[Json]", given or []))


def to_messages(items: Iterable[Json]) -> list[Json]:
    """Return the messages for some items; what an answer thought, said and called is one message."""
    messages: list[Json] = []
    answer: str | None = None
    for item in items:
        if not _is_of_assistant(item):
            messages.append(_other(item))
            answer = None
            continue
        same = answer is not None and answer == answer_of(item)
        answer = answer_of(item)
        if not messages or messages[-1]["role"] != "assistant" or (not same and _begins(item, messages[-1])):
            messages.append({"role": "assistant", "content": None})
        _add(messages[-1], item)
    return messages


def item_id(prefix: str, index: int, response_id: str) -> str:
    """Return the id of an output item, which says which answer it is part of."""
    return f"{prefix}_{index}_{response_id}"


def answer_of(item: Json) -> str | None:
    """Return the id of the answer that an item is part of, if `item_id` made its id."""
    pieces = str(item.get("id") or "").split("_", 2)
    return pieces[2] if len(pieces) == 3 and pieces[1].isdigit() else None


def _is_of_assistant(item: Json) -> bool:
    kind = item.get("type", "message")
    return kind in ("reasoning", "function_call") or (kind == "message" and item["role"] == "assistant")


def _begins(item: Json, message: Json) -> bool:
    """Whether an item that does not say whose it is begins another answer than the message before."""
    return item.get("type") != "function_call" and (message["content"] is not None or "tool_calls" in message)


def _add(message: Json, item: Json) -> None:
    match item.get("type", "message"):
        case "reasoning":
            key = thoughts_key(item.get("encrypted_content"))
            thoughts = "".join(part["text"] for part in item.get("content") or item.get("summary") or ())
            message[key] = message.get(key, "") + thoughts
        case "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(call)
        case _:
            message["content"] = _joined(message["content"], _content(item["content"]))


def _joined(before: Any, content: Any) -> Any:
    if before is None:
        return content
    if isinstance(before, str) and isinstance(content, str):
        return before + content
    return [*_as_parts(before), *_as_parts(content)]


def _as_parts(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _other(item: Json) -> Json:
    match item.get("type", "message"):
        case "message":
            # Chat templates of open models know no developer, and OpenAI takes one for the other.
            role = "system" if item["role"] == "developer" else item["role"]
            return {"role": role, "content": _content(item["content"])}
        case "function_call_output":
            return {"role": "tool", "tool_call_id": item["call_id"], "content": _content(item["output"])}
        case "item_reference":
            raise InvalidRequest("the gateway keeps answers, not single items: send the item itself")
        case kind:
            raise InvalidRequest(f"the gateway cannot serve an item of type {kind!r}: a chat has no form for it")


def _content(content: Any) -> Any:
    """Return the text if there is nothing else, the parts otherwise."""
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in cast("list[Json]", content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Json) -> Json:
    if part["type"] in _TEXTS:
        return {"type": "text", "text": part["refusal" if part["type"] == "refusal" else "text"]}
    rest = {key: value for key, value in part.items() if key != "type"}
    match part["type"]:
        case "input_image":
            if not part.get("image_url"):
                raise InvalidRequest("the gateway cannot serve an uploaded image: send it as image_url")
            url = {"url": part["image_url"]} | ({"detail": part["detail"]} if part.get("detail") else {})
            return {"type": "image_url", "image_url": url}
        case "input_file":
            return {"type": "file", "file": rest}
        case _:
            return part  # the backend may know it


def _tools(payload: Json) -> Json:
    chat: Json = {}
    if payload.get("tools"):
        chat["tools"] = [_tool(tool) for tool in payload["tools"]]
    choice = payload.get("tool_choice")
    if choice:
        chat["tool_choice"] = choice if isinstance(choice, str) else _choice(choice)
    return chat


def _tool(tool: Json) -> Json:
    if tool["type"] != "function":
        raise InvalidRequest(
            f"the gateway cannot serve the tool {tool['type']!r}, which only OpenAI runs: define it as a function, "
            "and run it in the agent"
        )
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _choice(choice: Json) -> Json:
    match choice["type"]:
        case "function":
            return {"type": "function", "function": {"name": choice["name"]}}
        case "allowed_tools":
            allowed = [{"type": "function", "function": {"name": tool["name"]}} for tool in choice["tools"]]
            return {"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": allowed}}
        case kind:
            raise InvalidRequest(f"the gateway cannot serve the tool choice {kind!r}: a chat has no form for it")


def _output(payload: Json) -> Json:
    text: Json = payload.get("text") or {}
    chat: Json = {"verbosity": text["verbosity"]} if text.get("verbosity") else {}
    wanted: Json = text.get("format") or {}
    if wanted.get("type") == "json_schema":
        schema = {key: value for key, value in wanted.items() if key != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif wanted.get("type") not in (None, "text"):
        chat["response_format"] = wanted
    return chat
