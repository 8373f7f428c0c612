"""Tool calls in a model's text. Each family of models writes them in its own form; a parser reads one form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

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


class ToolParser(Protocol):
    """Takes one answer apart as its text comes; what it returns must not depend on the pieces in which that is."""

    def feed(self, text: str) -> list[str | ToolCall]:
        """Return, in order, what is certain by now and was not returned before: well-formed calls, and other text."""
        ...

    def close(self) -> list[str | ToolCall]:
        """Return the rest, after the last text."""
        ...


class HermesParser:
    """Reads calls of the form `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen).

    A call is certain when it is complete: malformed, it is text.
    """

    _OPENING, _CLOSING = "<tool_call>", "</tool_call>"

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> list[str | ToolCall]:
        """See `ToolParser.feed`."""
        text = self._held + text
        pieces: list[str | ToolCall] = []
        position = 0
        while (start := text.find(self._OPENING, position)) >= 0 and (stop := text.find(self._CLOSING, start)) >= 0:
            end = stop + len(self._CLOSING)
            call = _read_call(text[start + len(self._OPENING) : stop])
            pieces += [text[position:start], call] if call else [text[position:end]]
            position = end
        if start < 0:
            start = len(text) - held_length(text[position:], (self._OPENING,))
        self._held = text[start:]
        return [*pieces, text[position:start]]

    def close(self) -> list[str | ToolCall]:
        """See `ToolParser.close`."""
        return [self._held]


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
