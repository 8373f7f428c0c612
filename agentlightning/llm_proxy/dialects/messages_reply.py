"""A chat's answer as a message of Anthropic's, whole and as a stream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, cast

from agentlightning.llm_proxy.dialects.blocks import Block, BlockReader, Step, blocks_of

Json = dict[str, Any]

_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_DELTAS: Final = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "tool": ("input_json_delta", "partial_json"),
}
_UNREADABLE: Final = "INVALID_JSON"
"""Anthropic's name for arguments that are no JSON object."""


def from_chat(reply: Json) -> Json:
    """Return a message that is not streamed.

    Raises:
        ValueError: The reply has not the form of a chat completion; so have the errors below.
        TypeError: See there.
        KeyError: See there.
        AttributeError: See there.
        IndexError: See there.
    """
    choice: Json = reply["choices"][0]
    blocks = blocks_of(choice["message"])
    content = [_whole(block) for block in blocks]
    stopped = _stop(choice.get("finish_reason"), choice.get("stop_reason"), blocks)
    return _message(reply, content) | stopped | {"usage": _usage(reply.get("usage") or {})}


def input_of(arguments: str) -> Json:
    """Return a tool call's arguments as the object that stands for them."""
    try:
        parsed = json.loads(arguments or "{}", parse_constant=_no_json)
    except (ValueError, RecursionError):
        parsed = None
    return cast("Json", parsed) if isinstance(parsed, dict) else {_UNREADABLE: arguments}


class MessageStream:
    """The events of one answer, made from a chat's chunks as they come.

    Attributes:
        reader: What was read.
    """

    def __init__(self) -> None:
        self.reader = BlockReader()
        self._started = False
        self._finish_reason: str | None = None
        self._stopped_by: Any = None
        self._usage: Json = {}

    @property
    def finished(self) -> bool:
        """Whether the model ended its answer."""
        return self._finish_reason is not None

    def feed(self, chunk: Json) -> list[Json]:
        """Return the events that a chunk makes; it raises what `from_chat` raises."""
        events = [] if self._started else [self._start(chunk)]
        self._started = True
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                events += self._events(self.reader.feed(choice.get("delta") or {}))
                self._finish_reason = choice.get("finish_reason") or self._finish_reason
                self._stopped_by = choice.get("stop_reason") or self._stopped_by
        return events

    def finish(self) -> list[Json]:
        """Return the events that end the answer."""
        events = self._events(self.reader.finish())
        delta = _stop(self._finish_reason, self._stopped_by, self.reader.blocks)
        usage = _usage(self._usage)
        return [*events, {"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]

    def error(self, message: str, code: str) -> list[Json]:
        """Return the event that says that the answer failed."""
        kind = "timeout_error" if code == "backend_timeout" else "api_error"
        return [{"type": "error", "error": {"type": kind, "message": message}}]

    def _start(self, chunk: Json) -> Json:
        # Only the last chunk has the usage, but backends that name the prompt's tokens do so in the first.
        prompt = chunk.get("usage") or {"prompt_tokens": len(chunk.get("prompt_token_ids") or ())}
        stopped = {"stop_reason": None, "stop_sequence": None}
        return {"type": "message_start", "message": _message(chunk, []) | stopped | {"usage": _usage(prompt)}}

    def _events(self, steps: Sequence[Step]) -> list[Json]:
        return [event for step in steps for event in self._step(step)]

    def _step(self, step: Step) -> list[Json]:
        block = self.reader.blocks[step.index]
        if step.action == "open":
            return [{"type": "content_block_start", "index": step.index, "content_block": _empty(block)}]
        if step.action == "grow":
            kind, key = _DELTAS[block.kind]
            return [_delta(step.index, kind, key, step.text)]
        signature = [_delta(step.index, "signature_delta", "signature", block.key)] if block.kind == "thinking" else []
        return [*signature, {"type": "content_block_stop", "index": step.index}]


def _message(reply: Json, content: list[Json]) -> Json:
    head = {"id": reply.get("id"), "type": "message", "role": "assistant", "model": reply.get("model")}
    return head | {"content": content}


def _whole(block: Block) -> Json:
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": block.text, "signature": block.key}
        case "tool":
            return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": input_of(block.text)}
        case "other":
            return block.part
        case _:
            return {"type": "text", "text": block.text}


def _empty(block: Block) -> Json:
    """Return a block as a stream begins it."""
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "tool":
            return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}
        case "other":
            return block.part
        case _:
            return {"type": "text", "text": ""}


def _delta(index: int, kind: str, key: str, text: str) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, key: text}}


def _stop(finish_reason: str | None, stopped_by: Any, blocks: Sequence[Block]) -> Json:
    """Return why the answer ended; vLLM names the text that stopped it."""
    if finish_reason == "stop" and any(block.kind == "tool" for block in blocks):
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if finish_reason == "stop" and any(block.kind == "refusal" for block in blocks):
        return {"stop_reason": "refusal", "stop_sequence": None}
    if finish_reason == "stop" and isinstance(stopped_by, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
    return {"stop_reason": _STOP_REASONS.get(finish_reason or "", finish_reason), "stop_sequence": None}


def _usage(usage: Json) -> Json:
    """Return the counts; here the input is only what was not read from a cache."""
    details: Json = usage.get("prompt_tokens_details") or {}
    cached: int = details.get("cached_tokens") or 0
    return {
        "input_tokens": (usage.get("prompt_tokens") or 0) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.get("completion_tokens") or 0,
    }


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
