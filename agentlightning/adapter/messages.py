"""Model calls as OpenAI chat messages, for fine-tuning and for looking at."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypedDict

from agentlightning.adapter.base import TraceAdapter
from agentlightning.adapter.garbage import collected_afterwards
from agentlightning.adapter.llm_call import in_order, llm_calls
from agentlightning.types import Span
from agentlightning.types.attributes import unflatten_attributes

logger = logging.getLogger(__name__)

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_TOOL_PREFIX: Final = "tool."


class OpenAIMessages(TypedDict):
    """One conversation: the messages of a request with the answer behind them, and the tools it offered."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


class TraceToMessages(TraceAdapter[list[OpenAIMessages]]):
    """Turns the spans of a rollout into conversations, one for each answer of a model, in order.

    A call that several spans saw is one conversation, a failed call is none. Contents and tool calls stay as they are,
    with what else a message holds; fields that are None are left out. A conversation with a message whose role OpenAI
    does not know is left out too, and logged.
    """

    @collected_afterwards()
    def adapt(self, source: Sequence[Span], /) -> list[OpenAIMessages]:
        """Return a conversation for each model call among the spans."""
        conversations: list[OpenAIMessages] = []
        for call in llm_calls(source):
            answer = {**call.message, "role": call.message.get("role") or "assistant"}
            messages = [_message(message) for message in [*call.messages, answer]]
            unknown = {str(message.get("role")) for message in messages} - _ROLES
            if unknown:
                logger.warning("Left out the conversation of span %s: unknown roles %s", call.span_id, sorted(unknown))
                continue
            conversations.append(OpenAIMessages(messages=messages, tools=call.tools or None))
        return conversations

    def get_tool_calls(self, completion: Span, all_spans: Sequence[Span], /) -> Iterable[dict[str, Any]]:
        """Yield what spans directly below a call say of the tools it asked for: `name`, `parameters`, `call`."""
        for span in in_order(all_spans):
            below = {key: value for key, value in span.attributes.items() if key.startswith(_TOOL_PREFIX)}
            if below and span.parent_id == completion.span_id:
                tool = unflatten_attributes({key.removeprefix(_TOOL_PREFIX): value for key, value in below.items()})
                if isinstance(tool, dict):
                    yield tool


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is None, but for the content of an answer that only calls tools."""
    known = {key: value for key, value in message.items() if value is not None}
    return known if "content" in known else {**known, "content": None}
