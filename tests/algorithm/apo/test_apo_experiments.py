from __future__ import annotations

from typing import Any, cast

import pytest

from agentlightning.adapter import TraceToMessages
from agentlightning.algorithm.apo.experiments import describe_experiment
from agentlightning.algorithm.prompt_search import Scored


class Told(TraceToMessages):
    """Gives the conversations that it was told."""

    def __init__(self, *conversations: list[dict[str, Any]]) -> None:
        self._conversations = conversations

    def adapt(self, source: Any, /) -> Any:
        return [{"messages": messages, "tools": None} for messages in self._conversations]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "book"}}]}


def transcript(*conversations: list[dict[str, Any]]) -> str:
    scored = Scored(0, "ro-1", 0.5, None)
    return cast("str", describe_experiment("a task", scored, [], Told(*conversations))["transcript"])


def test_a_conversation_that_goes_on_is_told_once() -> None:
    first, second = [user("a"), CALL], [user("a"), CALL, user("b")]
    assert transcript(first, second, [user("c")]) == (
        'user: a\nassistant: [{"function": {"name": "book"}}]\nuser: b\n\nuser: c'
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "tool", "content": "42"}, "tool: 42"),
        ({"role": "user", "content": [{"type": "text", "text": "é"}]}, 'user: [{"type": "text", "text": "é"}]'),
        ({"role": "assistant", "content": None}, "assistant: "),
    ],
    ids=["tool", "parts", "nothing"],
)
def test_messages_of_every_form_are_text(message: dict[str, Any], text: str) -> None:
    assert transcript([message]) == text


def test_what_a_critic_reads_is_bounded_and_says_what_failed() -> None:
    failed = Scored(0, "ro-1", None, "ValueError: no room")
    read = describe_experiment({"room": "x" * 50_000}, failed, [], Told([user("y" * 50_000)]))
    assert (read["status"], read["final_reward"], read["error"]) == ("failed", 0.0, "ValueError: no room")
    assert max(len(read["task"]), len(read["transcript"])) < 11_000
    assert transcript() == "(No model call was seen.)"
