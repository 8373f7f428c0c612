"""An answer's text as an assistant's message, at once or while it comes."""

from __future__ import annotations

import json
from typing import Any

from agentlightning._internal.ids import generate_id
from agentlightning.inference.tool_calls import ArgumentsPart, CallBegun, Piece, ToolCall, ToolParser

Json = dict[str, Any]


class MessageStream:
    """Turns the text of one answer, as it comes, into the deltas of its message.

    Args:
        parser: Finds the tool calls in it; None does not look for any.

    Attributes:
        calls: How many tool calls there are by now.
    """

    def __init__(self, parser: ToolParser | None) -> None:
        self.calls = 0
        self._parser = parser
        self._begun = False
        self._space = ""

    def feed(self, text: str, *, last: bool) -> list[Json]:
        """Return the deltas that are certain by now and were not returned before; with the `last` text all of them."""
        if self._parser is None:
            pieces: list[Piece] = [text]
        else:
            pieces = [*self._parser.feed(text), *(self._parser.close() if last else ())]
        deltas = [delta for piece in pieces if (delta := self._delta(piece))]
        return deltas + self._rest() if last else deltas

    def _delta(self, piece: Piece) -> Json | None:
        match piece:
            case str():
                return self._text_delta(piece)
            case ToolCall():
                return self._begin(piece.name, json.dumps(piece.arguments, ensure_ascii=False))
            case CallBegun():
                return self._begin(piece.name, "")
            case ArgumentsPart():
                return self._call({"function": {"arguments": piece.text}}) if piece.text else None

    def _text_delta(self, piece: str) -> Json | None:
        text = self._space + piece
        # Templates put their own space between content and calls; with it kept here, it would be there twice.
        content = text if self._parser is None else text.rstrip()
        self._space = text[len(content) :]
        return self._content(content) if content else None

    def _begin(self, name: str, arguments: str) -> Json:
        self.calls += 1
        function = {"name": name, "arguments": arguments}
        return self._call({"id": f"call_{generate_id(24)}", "type": "function", "function": function})

    def _call(self, fields: Json) -> Json:
        return {"tool_calls": [{"index": self.calls - 1, **fields}]}

    def _rest(self) -> list[Json]:
        if self.calls or (self._begun and not self._space):
            return []
        return [self._content(self._space)]

    def _content(self, text: str) -> Json:
        self._begun = True
        return {"content": text}


def assistant_message(text: str, parser: ToolParser | None) -> Json:
    """Return the message of an answer's whole text."""
    message: Json = {"role": "assistant", "content": None}
    calls: list[Json] = []
    for delta in MessageStream(parser).feed(text, last=True):
        if "content" in delta:
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls", ()):
            if call.pop("index") == len(calls):
                calls.append(call)
            else:
                calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    if calls:
        message["tool_calls"] = calls
    return message
