"""A chat's answer as a response of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentlightning.llm_proxy.dialects.blocks import Block, blocks_of
from agentlightning.llm_proxy.dialects.responses_request import item_id

Json = dict[str, Any]

_DEFAULTS: Final[Json] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
}
"""What a response repeats of its request, and what it says where the request says nothing."""
_CUT_OFF: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PREFIXES: Final = {"thinking": "rs", "tool": "fc"}


def from_chat(payload: Json, reply: Json) -> Json:
    """Return a response that is not streamed; see `messages_reply.from_chat` for what it raises."""
    choice: Json = reply["choices"][0]
    blocks = blocks_of(choice["message"])
    return whole_response(payload, reply, blocks, choice.get("finish_reason"), reply.get("usage"))


def whole_response(
    payload: Json, head: Json, blocks: Sequence[Block], finish_reason: str | None, usage: Json | None
) -> Json:
    """Return the response to a request, its head taken from an answer or the first chunk of one."""
    reason = _CUT_OFF.get(finish_reason or "")
    last = len(blocks) - 1
    output = [
        item(block, index, head["id"], "incomplete" if reason and index == last else "completed")
        for index, block in enumerate(blocks)
    ]
    return response(payload, head, output) | {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "usage": _usage(usage) if usage else None,
    }


def response(payload: Json, head: Json, output: list[Json]) -> Json:
    """Return a response that is in progress."""
    repeated = {key: default if payload.get(key) is None else payload[key] for key, default in _DEFAULTS.items()}
    return {
        "id": head["id"],
        "object": "response",
        "created_at": head.get("created") or 0,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": head.get("model"),
        "output": output,
        "usage": None,
        **repeated,
    }


def item(block: Block, index: int, response_id: str, status: str) -> Json:
    """Return a block as an output item."""
    head: Json = {"id": item_id(_PREFIXES.get(block.kind, "msg"), index, response_id), "status": status}
    match block.kind:
        case "tool":
            call = {"call_id": block.call_id, "name": block.name, "arguments": block.text}
            return head | {"type": "function_call"} | call
        case "thinking":
            # Clients send this back unread, and so the backend gets the thoughts where it had put them.
            return head | {"type": "reasoning", "summary": [], "content": [part(block)], "encrypted_content": block.key}
        case _:
            return head | {"type": "message", "role": "assistant", "content": [part(block)]}


def part(block: Block) -> Json:
    """Return a block as the content part of its item."""
    match block.kind:
        case "thinking":
            return {"type": "reasoning_text", "text": block.text}
        case "refusal":
            return {"type": "refusal", "refusal": block.text}
        case "other":
            return block.part
        case _:
            return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}


def _usage(usage: Json) -> Json:
    read: Json = usage.get("prompt_tokens_details") or {}
    written: Json = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens") or 0,
        "input_tokens_details": {"cached_tokens": read.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": usage.get("completion_tokens") or 0,
        "output_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0},
        "total_tokens": usage.get("total_tokens") or 0,
    }
