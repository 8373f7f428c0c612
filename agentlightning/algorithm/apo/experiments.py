"""What a critic reads of a rollout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentlightning._internal.text import shortened
from agentlightning.adapter import TraceToMessages
from agentlightning.adapter.messages import OpenAIMessages
from agentlightning.algorithm.prompt_search import Scored, told_once
from agentlightning.types import Span


def describe_experiment(task: Any, scored: Scored, spans: Sequence[Span], adapter: TraceToMessages) -> dict[str, Any]:
    """Return what a prompt for a critique may say of a rollout.

    Args:
        task: The task, as JSON.
        scored: How it went.
        spans: Of its latest attempt.
        adapter: Turns spans into conversations.
    """
    return {
        "task": shortened(task if isinstance(task, str) else json.dumps(task, ensure_ascii=False)),
        "status": "succeeded" if scored.error is None else "failed",
        "final_reward": scored.reward or 0.0,
        "error": scored.error,
        "transcript": shortened(_transcript(adapter.adapt(spans))),
        "spans": shortened("\n".join(map(_span, spans))),
    }


def _transcript(conversations: Sequence[OpenAIMessages]) -> str:
    """Return conversations as text, without those that a later one goes on with."""
    ends = told_once(conversations)
    return "\n\n".join("\n".join(map(_message, messages)) for messages in ends) or "(No model call was seen.)"


def _message(message: dict[str, Any]) -> str:
    content = message.get("content")
    said = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) if content else ""
    calls = message.get("tool_calls")
    asked = json.dumps(calls, ensure_ascii=False) if calls else ""
    return f"{message['role']}: {' '.join(part for part in (said, asked) if part)}"


def _span(span: Span) -> str:
    return json.dumps({"name": span.name, "status": span.status.status_code, **span.attributes}, ensure_ascii=False)
