"""Tool calls in a model's text. Each family of models writes them in its own form; a parser reads one form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

from agentlightning.errors import ConfigurationError
from agentlightning.inference.text_stream import held_length


class ToolCall(NamedTuple):
    """A call of one tool.

    Attributes:
        name: The tool.
        arguments: Its arguments by name.
    """

    name: str
    arguments: dict[str, Any]


class CallBegun(NamedTuple):
    """The beginning of a call whose arguments follow as they are written.

    Attributes:
        name: The tool.
    """

    name: str


class ArgumentsPart(NamedTuple):
    """A piece of the arguments of the call that was begun last.

    Attributes:
        text: A piece of JSON, as the model writes it: what it comes to may be malformed, or break off.
    """

    text: str


Piece: TypeAlias = str | ToolCall | CallBegun | ArgumentsPart
"""What a parser finds in an answer: text, whole calls, or calls in parts."""


class ToolParser(Protocol):
    """Takes one answer apart as its text comes; what it returns must not depend on the pieces in which that is."""

    def feed(self, text: str) -> Sequence[Piece]:
        """Return, in order, what is certain by now and was not returned before."""
        ...

    def close(self) -> Sequence[Piece]:
        """Return the rest, after the last text."""
        ...


class HermesParser:
    """Reads calls of the form `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen).

    Such a call is certain when its arguments begin, and they are passed on as they come. Written in another order, it
    is certain when it is complete: malformed, it is text.
    """

    _OPENING, _CLOSING = "<tool_call>", "</tool_call>"
    _HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)', re.DOTALL)

    def __init__(self) -> None:
        self._held = ""
        self._arguments: _JsonObject | None = None

    def feed(self, text: str) -> list[Piece]:
        """See `ToolParser.feed`."""
        self._held += text
        found: list[Piece] = []
        while self._step(found):
            pass
        return found

    def close(self) -> list[Piece]:
        """See `ToolParser.close`."""
        rest, self._held = self._held, ""
        return [self._piece(rest)] if rest else []

    def _step(self, found: list[Piece]) -> bool:
        """Move on from what is held to the next thing that is certain; False if more text is needed for that."""
        marker = self._OPENING if self._arguments is None else self._CLOSING
        place = self._held.find(marker)
        end = place if place >= 0 else len(self._held) - held_length(self._held, (marker,))
        if end:
            found.append(self._piece(self._held[:end]))
            self._held = self._held[end:]
        if place < 0:
            return False
        if self._arguments is None:
            return self._enter(found)
        self._arguments = None
        self._held = self._held[len(marker) :]
        return True

    def _piece(self, text: str) -> Piece:
        return text if self._arguments is None else ArgumentsPart(self._arguments.take(text))

    def _enter(self, found: list[Piece]) -> bool:
        """Read on from an opening; False while it is not certain what it opens."""
        body, closing, _ = self._held[len(self._OPENING) :].partition(self._CLOSING)
        if head := self._HEAD.match(body):
            with suppress(ValueError):  # no name after all, as at a line break in it: so it is text when complete
                found.append(CallBegun(json.loads(head[1])))
                self._arguments = _JsonObject()
                self._held = self._held[len(self._OPENING) + head.end() :]
                return True
        if not closing:
            return False
        whole = f"{self._OPENING}{body}{closing}"
        found.append(_read_call(body) or whole)
        self._held = self._held[len(whole) :]
        return True


class _JsonObject:
    """Tells where a JSON object ends whose text comes in pieces, by its braces alone."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = self._done = False

    def take(self, text: str) -> str:
        """Return what of the next piece belongs to the object."""
        if self._done:
            return ""
        for position, character in enumerate(text, 1):
            if self._ends_with(character):
                self._done = True
                return text[:position]
        return text

    def _ends_with(self, character: str) -> bool:
        if self._in_string:
            self._in_string = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
            return False
        self._in_string = character == '"'
        self._depth += (character == "{") - (character == "}")
        return self._depth == 0


def _read_call(body: str) -> ToolCall | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None  # malformed: it stays content, where the agent sees it
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    name, arguments = fields.get("name"), fields.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(name, cast("dict[str, Any]", arguments))


_parsers: dict[str, Callable[[], ToolParser]] = {"hermes": HermesParser}


def register_tool_parser(name: str, make_parser: Callable[[], ToolParser]) -> None:
    """Make a parser available as `tool_parser=name`; one of that name is replaced.

    Args:
        name: What to call it.
        make_parser: Returns a parser for one answer.
    """
    _parsers[name] = make_parser


def find_tool_parser(name: str) -> Callable[[], ToolParser]:
    """Return what makes parsers of the kind registered as `name`.

    Raises:
        ConfigurationError: There is none; the message lists those there are.
    """
    if name not in _parsers:
        raise ConfigurationError(
            f"no tool parser {name!r}: there are {', '.join(sorted(_parsers))}; add one with register_tool_parser"
        )
    return _parsers[name]
