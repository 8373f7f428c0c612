"""Spans as tests write them: calls as the gateway records them, operations, agents and rewards."""

from __future__ import annotations

import json
from typing import Any

from agentlightning import semconv
from agentlightning.types import Attributes, Span, TraceStatus
from agentlightning.types.attributes import make_link_attributes
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call


def make_span(
    name: str,
    number: int = 0,
    parent: str | None = None,
    attributes: Attributes | None = None,
    *,
    time: tuple[float, float] | None = None,
    id: str | None = None,
    attempt: str = "a",
    error: str | None = None,
) -> Span:
    """A span whose id is its name, and which lasts from `number` to the next unless `time` says otherwise."""
    start, end = time or (float(number), number + 1.0)
    return Span.from_attributes(
        attributes=attributes or {},
        rollout_id="r",
        attempt_id=attempt,
        sequence_id=number,
        name=name,
        trace_id="t",
        span_id=id or name,
        parent_id=parent,
        start_time=start,
        end_time=end,
        status=TraceStatus(status_code="ERROR", description=error) if error else None,
    )


def make_call(name: str, number: int = 0, parent: str | None = None, answers: int = 1, **options: Any) -> Span:
    """A call as the gateway records it; its response id is `resp-<name>`."""
    choices = [
        CapturedChoice(
            token_ids=[number + 1],
            logprobs=[-0.5],
            finish_reason="stop",
            message={"role": "assistant", "content": name},
        )
        for _ in range(answers)
    ]
    request = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}
    attributes = encode_call(
        CapturedCall(
            request=json.dumps(request),
            model="m",
            prompt_token_ids=[1, 2],
            choices=[] if options.get("error") else choices,
            response_id=f"resp-{name}",
        )
    )
    return make_span(name, number, parent, attributes, **options)


def make_agent(name: str, number: int = 0, parent: str | None = None, **options: Any) -> Span:
    return make_span(name, number, parent, {"agent.name": name}, **options)


def make_reward(
    value: float | dict[str, float],
    number: int = 0,
    parent: str | None = None,
    links: dict[str, str] | None = None,
    **options: Any,
) -> Span:
    """A reward as `emit_reward` records it."""
    dimensions = value if isinstance(value, dict) else {"primary": value}
    attributes: Attributes = {}
    for index, (name, each) in enumerate(dimensions.items()):
        attributes[f"{semconv.AGL_REWARD}.{index}.name"] = name
        attributes[f"{semconv.AGL_REWARD}.{index}.value"] = each
    options.setdefault("id", f"reward-{number}")
    return make_span(semconv.AGL_ANNOTATION, number, parent, attributes | make_link_attributes(links or {}), **options)
