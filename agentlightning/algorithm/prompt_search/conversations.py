"""What was said in a rollout, once: a call repeats the conversation that it goes on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from agentlightning.adapter.messages import OpenAIMessages

Message: TypeAlias = dict[str, Any]


def told_once(conversations: Sequence[OpenAIMessages]) -> list[list[Message]]:
    """Return the messages of each conversation, without those conversations that a later one goes on with."""
    told = [conversation["messages"] for conversation in conversations]
    said = [[_said(message) for message in messages] for messages in told]
    return [
        messages
        for place, messages in enumerate(told)
        if not any(later[: len(messages)] == said[place] for later in said[place + 1 :])
    ]


def _said(message: Mapping[str, Any]) -> Message:
    """Return a message without its empty fields, which an agent that gives it back may leave out or write otherwise."""
    return {name: value for name, value in message.items() if value is not None and value != "" and value != []}
