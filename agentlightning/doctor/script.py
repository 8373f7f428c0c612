"""What the scripted model says: replies, and the script that is used when none is given."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from agentlightning.doctor.schema import example_of

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one tool.

    Attributes:
        name: The tool's name.
        arguments: Its arguments; text goes out as it is.
    """

    name: str
    arguments: Mapping[str, Any] | str

    @property
    def text(self) -> str:
        """The arguments as the model writes them."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        content: Its text.
        tool_calls: The tools it calls, all at once.
    """

    content: str = ""
    tool_calls: Sequence[ToolCall] = ()


Script: TypeAlias = Callable[[Json], str | Reply]
"""Makes the answer to a request."""


def as_script(replies: Script | Sequence[str | Reply] | None) -> Script:
    """Return replies as a function: a list is gone through again and again, None is `call_each_tool_once`."""
    if replies is None:
        return call_each_tool_once
    if callable(replies):
        return replies
    if isinstance(replies, str) or not replies:
        raise ValueError("replies must be a function, a list that is not empty, or None")
    turns = itertools.cycle(replies)
    return lambda _request: next(turns)


def call_each_tool_once(request: Json) -> Reply:
    """Call the first tool that the conversation has not called yet; with none left, answer in words.

    Arguments are the smallest that their JSON schema allows, and so are words where the request wants JSON.
    """
    tools = _offered(request)
    calls: list[Json] = [call for message in request["messages"] for call in message.get("tool_calls") or ()]
    called = [call["function"]["name"] for call in calls if "function" in call]
    fresh = [tool for tool in tools if tool["name"] not in called]
    forced = tools if request.get("tool_choice") == "required" or _chosen(request) else []
    chosen = next(iter(fresh or forced), None)
    if chosen is not None:
        return Reply(tool_calls=[ToolCall(chosen["name"], example_of(chosen.get("parameters") or {}))])
    wanted: Json = request.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return Reply(json.dumps(example_of(wanted["json_schema"].get("schema") or {"type": "object"})))
    return Reply("{}" if wanted.get("type") == "json_object" else f"Answer to message {len(request['messages'])}.")


def _offered(request: Json) -> list[Json]:
    """The functions that the answer may call, in the request's order."""
    functions = [tool["function"] for tool in request.get("tools") or () if tool.get("type") == "function"]
    if request.get("tool_choice") == "none":
        return []
    if name := _chosen(request):
        return [function for function in functions if function["name"] == name]
    return functions


def _chosen(request: Json) -> str | None:
    """The only function that may be called, where the request names one; other choices are the model's to make."""
    choice = request.get("tool_choice")
    function: Json = cast("Json", choice).get("function") or {} if isinstance(choice, dict) else {}
    return function.get("name")
