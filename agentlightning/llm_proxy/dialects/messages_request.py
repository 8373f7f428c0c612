"""Requests to Anthropic's Messages API as requests for a chat completion."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

from agentlightning.errors import InvalidRequest
from agentlightning.llm_proxy.dialects.blocks import thoughts_key

Json = dict[str, Any]

_TRANSLATED: Final = frozenset({"messages", "output_config", "stop_sequences", "system", "tool_choice", "tools"})
_MEANINGLESS: Final = frozenset(
    {
        "cache_control",
        "context_management",
        "diagnostics",
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "thinking",
        "user_profile_id",
        "workspace_id",
    }
)
"""What is about Anthropic's own service. A model that thinks does so of itself, and its thoughts are passed on."""
_REFUSED: Final = frozenset({"container", "mcp_servers"})
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_THOUGHT: Final = frozenset({"thinking", "redacted_thinking"})

Arguments = Callable[[str, Any], str]
"""Returns the text of a tool call's arguments, from its id and the arguments themselves."""


def to_chat(payload: Json, arguments: Arguments) -> Json:
    """Return the request for a chat completion; fields that are not Anthropic's go through as they are.

    Raises:
        InvalidRequest: Something that a chat has no form for.
    """
    refused = [key for key in sorted(_REFUSED) if payload.get(key)] + (
        ["n"] if payload.get("n") not in (None, 1) else []
    )
    if refused:
        raise InvalidRequest(f"the gateway cannot serve {refused}: chat completions have no such thing for Messages")
    chat = {key: value for key, value in payload.items() if key not in _TRANSLATED | _MEANINGLESS | _REFUSED}
    system = content_of(payload.get("system") or "")
    chat["messages"] = [{"role": "system", "content": system}] if system else []
    for message in payload["messages"]:
        chat["messages"] += _messages(message, arguments)
    if payload["messages"] and payload["messages"][-1]["role"] == "assistant":
        chat |= {"add_generation_prompt": False, "continue_final_message": True}  # the client began the answer itself
    if payload.get("stop_sequences"):
        chat["stop"] = payload["stop_sequences"]
    return chat | _tools(payload) | _output(payload.get("output_config") or {})


def content_of(content: Any) -> Any:
    """Return a message's content: the text if there is nothing else, the parts otherwise."""
    if isinstance(content, str):
        return content
    blocks = cast("list[Json]", content)
    if all(block["type"] == "text" for block in blocks):
        return "".join(block["text"] for block in blocks)
    return [_part(block) for block in blocks]


def _messages(message: Json, arguments: Arguments) -> Iterator[Json]:
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        yield {"role": role, "content": content}
    elif role == "assistant":
        yield _assistant(content, arguments)
    else:
        yield from _others(role, content)


def _assistant(blocks: Sequence[Json], arguments: Arguments) -> Json:
    said = [block for block in blocks if block["type"] != "tool_use" and block["type"] not in _THOUGHT]
    message: Json = {"role": "assistant", "content": content_of(said) or None}
    for block in blocks:
        if block["type"] == "thinking":  # what is redacted, nobody but Anthropic can read
            key = thoughts_key(block.get("signature"))
            message[key] = message.get(key, "") + block["thinking"]
    calls = [_tool_call(block, arguments) for block in blocks if block["type"] == "tool_use"]
    return message | ({"tool_calls": calls} if calls else {})


def _tool_call(block: Json, arguments: Arguments) -> Json:
    function = {"name": block["name"], "arguments": arguments(block["id"], block["input"])}
    return {"id": block["id"], "type": "function", "function": function}


def _others(role: str, blocks: Sequence[Json]) -> Iterator[Json]:
    """Yield the messages for one of the user's: each tool's result is a message of its own."""
    rest: list[Json] = []
    for block in blocks:
        if block["type"] != "tool_result":
            rest.append(block)
            continue
        if rest:
            yield {"role": role, "content": content_of(rest)}
            rest = []
        yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content_of(block.get("content") or "")}
    if rest or not blocks:
        yield {"role": role, "content": content_of(rest)}


def _part(block: Json) -> Json:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    if block["type"] != "image":
        return block  # the backend may know it
    source = block["source"]
    if source["type"] == "base64":
        return _image(f"data:{source['media_type']};base64,{source['data']}")
    if source["type"] == "url":
        return _image(source["url"])
    raise InvalidRequest(f"the gateway cannot serve an image of type {source['type']!r}: send it as base64 or url")


def _image(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def _tools(payload: Json) -> Json:
    chat: Json = {}
    if payload.get("tools"):
        chat["tools"] = [_tool(tool) for tool in payload["tools"]]
    choice: Json = payload.get("tool_choice") or {}
    if choice:
        named = {"type": "function", "function": {"name": choice.get("name")}}
        chat["tool_choice"] = named if choice["type"] == "tool" else _CHOICES[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    return chat


def _tool(tool: Json) -> Json:
    if "input_schema" not in tool:
        raise InvalidRequest(
            f"the gateway cannot serve the tool {tool.get('type')!r}, which only Anthropic runs: define it with "
            "an input_schema, and run it in the agent"
        )
    function: Json = {"name": tool["name"], "parameters": tool["input_schema"]}
    function |= {key: tool[key] for key in ("description", "strict") if key in tool}
    return {"type": "function", "function": function}


def _output(config: Json) -> Json:
    chat: Json = {}
    wanted: Json = config.get("format") or {}
    if wanted:
        schema = {"name": "answer", "schema": wanted["schema"], "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    if config.get("effort"):
        chat["reasoning_effort"] = config["effort"]
    return chat


def written_as(arguments: Any) -> str:
    """Return arguments as the text that models write."""
    return json.dumps(arguments, ensure_ascii=False)
