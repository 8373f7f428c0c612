"""Tool calls in a model's text. Each family of models writes them in its own form; a parser reads one form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from agentlightning.errors import ConfigurationError


class ToolCall(NamedTuple):
    """A call of one tool.

    Attributes:
        name: The tool.
        arguments: Its arguments by name.
    """

    name: str
    arguments: dict[str, Any]


class ParsedText(NamedTuple):
    """What a model said, taken apart.

    Attributes:
        content: The text outside of well-formed calls, malformed ones included.
        tool_calls: The well-formed calls in order.
    """

    content: str
    tool_calls: list[ToolCall]


ToolParser = Callable[[str], ParsedText]


def parse_hermes(text: str) -> ParsedText:
    """Read calls of the form `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen)."""
    opening, closing = "<tool_call>", "</tool_call>"
    content: list[str] = []
    calls: list[ToolCall] = []
    position = 0
    while (start := text.find(opening, position)) >= 0 and (stop := text.find(closing, start)) >= 0:
        end = stop + len(closing)
        call = _read_call(text[start + len(opening) : stop])
        content.append(text[position : start if call else end])
        if call:
            calls.append(call)
        position = end
    content.append(text[position:])
    return ParsedText("".join(content), calls)


def _read_call(body: str) -> ToolCall | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None  # malformed: it stays content, where the agent sees it
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    name, arguments = fields.get("name"), fields.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(name, cast("dict[str, Any]", arguments))


_parsers: dict[str, ToolParser] = {"hermes": parse_hermes}


def register_tool_parser(name: str, parser: ToolParser) -> None:
    """Make `parser` available as `tool_parser=name`; a parser of that name is replaced."""
    _parsers[name] = parser


def find_tool_parser(name: str) -> ToolParser:
    """Return the parser registered as `name`.

    Raises:
        ConfigurationError: There is none; the message lists those there are.
    """
    if name not in _parsers:
        raise ConfigurationError(
            f"no tool parser {name!r}: there are {', '.join(sorted(_parsers))}; add one with register_tool_parser"
        )
    return _parsers[name]
