"""A chat's answer as the blocks that other APIs make of it: what was thought, what was said, which tools are called.

An answer that is not streamed is read as a stream of one piece, so both become the same blocks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from agentlightning.llm_proxy.dialects.chat_stream import begins_another

Json = dict[str, Any]
Kind = Literal["thinking", "text", "refusal", "tool", "other"]

_THOUGHTS: Final = ("reasoning_content", "reasoning")
"""Where backends put what the model thought."""


@dataclass(slots=True)
class Block:
    """A part of an answer.

    Attributes:
        kind: What it is.
        text: What it says; of a tool call, the arguments as the model wrote them.
        key: Of thoughts, the name under which the backend gave them.
        call_id: Of a tool call, its id.
        name: Of a tool call, the tool.
        part: Of anything else, the part of the content as it came.
    """

    kind: Kind
    text: str = ""
    key: str = ""
    call_id: str = ""
    name: str = ""
    part: Json = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Step:
    """What a piece of a stream does to the block at an index: opens it, adds text to it, or closes it."""

    action: Literal["open", "grow", "close"]
    index: int
    text: str = ""


class BlockReader:
    """Reads the pieces of one answer.

    Attributes:
        blocks: The blocks so far, in the order in which they were begun.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._open: list[int] = []
        self._tools: dict[int, int] = {}
        self._nameless: dict[int, Block] = {}

    def feed(self, delta: Json) -> list[Step]:
        """Read what a piece adds."""
        return list(self._read(delta))

    def finish(self) -> list[Step]:
        """Say what the end of the answer does."""
        steps = [step for index in list(self._nameless) for step in self._begin_tool(index)]
        return steps + list(self._close(list(self._open)))

    def _read(self, delta: Json) -> Iterator[Step]:
        key = next((key for key in _THOUGHTS if delta.get(key)), None)
        if key is not None:
            yield from self._say("thinking", delta[key], key)
        yield from self._read_content(delta.get("content"))
        yield from self._say("refusal", delta.get("refusal") or "")
        for position, call in enumerate(delta.get("tool_calls") or ()):
            yield from self._call(call.get("index", position), call)

    def _read_content(self, content: Any) -> Iterator[Step]:
        if not isinstance(content, list):
            yield from self._say("text", content or "")
            return
        for part in cast("list[Json]", content):
            if part.get("type") == "text":
                yield from self._say("text", part["text"])
            else:
                yield from self._begin(Block("other", part=part))

    def _say(self, kind: Kind, text: Any, key: str = "") -> Iterator[Step]:
        if not isinstance(text, str):
            raise TypeError(f"{kind} is no text but {str(text)[:80]}")
        if not text:
            return
        if not self.blocks or self.blocks[-1].kind != kind:
            yield from self._begin(Block(kind, key=key))
        yield self._grow(len(self.blocks) - 1, text)

    def _call(self, index: int, call: Json) -> Iterator[Step]:
        function: Json = call.get("function") or {}
        arguments: str = function.get("arguments") or ""
        known = self._known(index)
        if known is not None and begins_another(call, known.call_id):
            yield from self._begin_tool(index) if index in self._nameless else ()
            del self._tools[index]
        if index not in self._tools:
            block = self._nameless.setdefault(index, Block("tool"))
            block.call_id = block.call_id or call.get("id") or ""
            block.name = function.get("name") or ""
            block.text += arguments
            if block.name:
                yield from self._begin_tool(index)
        elif arguments:
            yield self._grow(self._tools[index], arguments)

    def _known(self, index: int) -> Block | None:
        return self.blocks[self._tools[index]] if index in self._tools else self._nameless.get(index)

    def _begin_tool(self, index: int) -> Iterator[Step]:
        block = self._nameless.pop(index)
        arguments, block.text = block.text, ""
        self._tools[index] = len(self.blocks)
        yield from self._begin(block)
        if arguments:
            yield self._grow(self._tools[index], arguments)

    def _begin(self, block: Block) -> Iterator[Step]:
        # Calls that are made at once may come in turns, so one closes only when its arguments are whole.
        yield from self._close([index for index in self._open if not _may_grow(self.blocks[index])])
        self._open.append(len(self.blocks))
        self.blocks.append(block)
        yield Step("open", self._open[-1])

    def _close(self, indices: Iterable[int]) -> Iterator[Step]:
        for index in indices:
            self._open.remove(index)
            yield Step("close", index)

    def _grow(self, index: int, text: str) -> Step:
        self.blocks[index].text += text
        return Step("grow", index, text)


def blocks_of(message: Json) -> list[Block]:
    """Return the blocks of a whole message."""
    reader = BlockReader()
    reader.feed(message)
    reader.finish()
    return reader.blocks


def thoughts_key(told: Any) -> str:
    """Return the name under which a backend gets thoughts back; what the client kept may be a seal that names none."""
    return told if told in _THOUGHTS else _THOUGHTS[0]


def message_of(blocks: Sequence[Block]) -> Json:
    """Return blocks as a chat's message, as it stands in the history of the next request."""
    said = [block for block in blocks if block.kind in ("text", "refusal", "other")]
    message: Json = {"role": "assistant", "content": _content(said)}
    for block in blocks:
        if block.kind == "thinking":
            message[block.key] = message.get(block.key, "") + block.text
    calls = [_tool_call(block) for block in blocks if block.kind == "tool"]
    return message | ({"tool_calls": calls} if calls else {})


def _may_grow(block: Block) -> bool:
    if block.kind != "tool":
        return False
    try:
        return not isinstance(json.loads(block.text), dict)
    except (ValueError, RecursionError):
        return True


def _content(said: Sequence[Block]) -> Any:
    if any(block.kind == "other" for block in said):
        return [block.part or {"type": "text", "text": block.text} for block in said]
    return "".join(block.text for block in said) or None


def _tool_call(block: Block) -> Json:
    function = {"name": block.name, "arguments": block.text}
    return {"id": block.call_id, "type": "function", "function": function}
