"""Why a call could not extend the row it went on from: what changed between its history and what was there.

Told from messages and tokens alone; there is no tokenizer here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from agentlightning.types import LLMCall
from agentlightning.types.chat_shape import Json, dicts, mapping

_BEFORE: Final = 20
_BEHIND: Final = 60


class BreakKind(StrEnum):
    """What changed between a row's tokens and the prompt that went on from it."""

    TEMPLATE = "template"
    """The messages are the same, and the chat template wrote earlier turns in another way, without thinking say."""
    RETOKENISATION = "retokenisation"
    """The messages are the same, and an answer has other tokens than were sampled; the tokenizer wrote its text, or
    the template one of its tool calls, in another way."""
    TOOL_SERIALISATION = "tool_serialisation"
    """The arguments of a tool call are the same in meaning, and written in another way."""
    HISTORY_EDIT = "history_edit"
    """The agent changed its messages or its tools."""
    UNKNOWN = "unknown"
    """The messages are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixBreak:
    """One broken prefix.

    Attributes:
        kind: What changed.
        call: The call whose prompt left the row.
        row: Index of that row among the rows.
        previous: The call of that row whose answer the prompt went on from.
        position: The first token that differs, counted in the row and in the prompt alike.
        in_answer: Whether the model had sampled the row's token there.
        message: Index of the first message that differs; None when all are the same.
        expected: The text around the place where the histories part, as it was; empty when they do not part.
        found: The text around that place, as the agent sent it; empty when they do not part.
    """

    kind: BreakKind
    call: LLMCall
    row: int
    previous: LLMCall
    position: int
    in_answer: bool
    message: int | None = None
    expected: str = ""
    found: str = ""


def classify(call: LLMCall, previous: LLMCall, *, row: int, position: int, in_answer: bool) -> PrefixBreak:
    """Compare a call's history with what a previous call read and answered."""

    def made(kind: BreakKind, message: int | None = None, expected: str = "", found: str = "") -> PrefixBreak:
        expected, found = _from_difference(expected, found)
        return PrefixBreak(
            kind=kind,
            call=call,
            row=row,
            previous=previous,
            position=position,
            in_answer=in_answer,
            message=message,
            expected=expected,
            found=found,
        )

    if not call.messages or not previous.messages:
        return made(BreakKind.UNKNOWN)
    was = [*previous.messages, previous.message]
    for index, old in enumerate(was):
        new = call.messages[index] if index < len(call.messages) else {}
        if old != new and _text(old) != _text(new):
            same = _meaning(old) == _meaning(new)
            kind = BreakKind.TOOL_SERIALISATION if same else BreakKind.HISTORY_EDIT
            return made(kind, index, _text(old), _text(new))
    if (call.tools or []) != (previous.tools or []) and not in_answer:
        return made(BreakKind.HISTORY_EDIT, None, json.dumps(previous.tools), json.dumps(call.tools))
    same_text = in_answer and not _has_thinking(previous.message)
    return made(BreakKind.RETOKENISATION if same_text else BreakKind.TEMPLATE)


def answer_key(before: Json, answer: Json) -> tuple[str, str, str]:
    """Return what an answer and the message before it say, by which a later history is recognised."""
    functions = [mapping(each, "function").get("name") for each in dicts(answer, "tool_calls")]
    return _content(before), _content(answer).strip(), json.dumps(functions) if functions else ""


def are_other_agents(one: LLMCall, two: LLMCall) -> bool:
    """Whether two calls have other instructions and other tools, so that one only shares the other's conversation."""
    first = [_text(each.messages[0]) for each in (one, two)]
    return first[0] != first[1] and (one.tools or []) != (two.tools or [])


def _text(message: Json) -> str:
    """Return all that a chat template may write of a message; what the model thought is not sent back."""
    calls = [mapping(each, "function") for each in dicts(message, "tool_calls")]
    told = [f"{each.get('name')}({each.get('arguments')})" for each in calls]
    return "\n".join([f"{message.get('role')}: {_content(message)}", *told])


def _meaning(message: Json) -> list[Any]:
    calls = [mapping(each, "function") for each in dicts(message, "tool_calls")]
    return [
        message.get("role"),
        _content(message),
        [(each.get("name"), _parsed(each.get("arguments"))) for each in calls],
    ]


def _content(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str) or content is None:
        return content or ""
    parts = dicts(message, "content")
    if all(part.get("type") == "text" for part in parts):
        return "".join(str(part.get("text", "")) for part in parts)
    return json.dumps(content, sort_keys=True, default=str)


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments


def _has_thinking(message: Json) -> bool:
    thinking = message.get("reasoning_content") or message.get("reasoning")
    return bool(thinking) or "</think>" in _content(message)


def _from_difference(expected: str, found: str) -> tuple[str, str]:
    """Cut both texts to what stands around the first character that differs."""
    length = min(len(expected), len(found))
    at = next((index for index in range(length) if expected[index] != found[index]), length)
    start = max(at - _BEFORE, 0)
    return expected[start : at + _BEHIND], found[start : at + _BEHIND]
