"""What a reflection model is shown of a rollout: its task, what was said and done, and how good it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from agentlightning._internal.text import shortened, text_of
from agentlightning.adapter import TraceToMessages
from agentlightning.algorithm.prompt_search import told_once
from agentlightning.emitter import find_reward_spans, get_message_value, get_rewards_from_span
from agentlightning.semconv import AGL_EXCEPTION
from agentlightning.types import Span

_NEXT: Final = "\n\n(another conversation)\n\n"


def reflective_record(task: Any, spans: Sequence[Span], reward: float | None, error: str | None) -> dict[str, Any]:
    """Return one example of GEPA's reflective dataset, in the form that its documentation recommends.

    Long texts keep their beginning and their end.

    Args:
        task: The task.
        spans: What happened.
        reward: The final reward; None if there was none.
        error: Why the rollout failed; None if it succeeded.
    """
    return {
        "Inputs": shortened(_as_text(task)),
        "Generated Outputs": shortened(_NEXT.join(_conversations(spans))) or "no model call was seen",
        "Feedback": shortened("\n".join(_feedback(spans, reward, error))),
    }


def _conversations(spans: Sequence[Span]) -> Iterator[str]:
    for messages in told_once(TraceToMessages().adapt(spans)):
        yield "\n\n".join(map(_line, messages))


def _line(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    asked = [f"calls {call.get('name')}({_as_text(call.get('arguments'))})" for call in calls]
    said = [] if content is None else [_content(content)]
    return f"[{message['role']}] " + "\n".join([*said, *asked])


def _content(content: Any) -> str:
    """Return a message's text; of an image, say, only that there was one."""
    if not isinstance(content, list):
        return _as_text(content)
    parts = [cast("Mapping[str, Any]", part) for part in cast("list[Any]", content) if isinstance(part, Mapping)]
    return "\n".join(_as_text(part.get("text", f"({part.get('type')})")) for part in parts)


def _feedback(spans: Sequence[Span], reward: float | None, error: str | None) -> Iterator[str]:
    yield f"Reward: {'none was given' if reward is None else f'{reward:g}'}"
    for span in find_reward_spans(spans)[-1:]:
        dimensions = get_rewards_from_span(span)
        if len(dimensions) > 1:
            yield "; ".join(f"{each.name} {each.value:g}" for each in dimensions)
    for span in spans:
        if span.name == AGL_EXCEPTION:
            yield f"{span.attributes.get('exception.type')}: {span.attributes.get('exception.message')}"
        elif (said := get_message_value(span)) is not None:
            yield said
        elif span.status.status_code == "ERROR":
            yield f"{span.name} failed: {span.status.description or 'without a reason'}"
    if error is not None:
        yield f"The rollout failed with {error}"


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return text_of(value)
