"""Conversations for fine-tuning: one for each answer, with everything the request and the answer said."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import agentlightning as agl
from agentlightning.adapter import TraceToMessages
from agentlightning.types import Attributes, Span
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call
from tests.adapter.spans import make_call, make_span

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "x"}}]},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [TOOL_CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]


def call(messages: list[dict[str, Any]], answers: list[dict[str, Any]], number: int = 1, **request: Any) -> Span:
    choices = [CapturedChoice(token_ids=[1], logprobs=None, finish_reason="stop", message=each) for each in answers]
    text = json.dumps({"model": "m", "messages": messages, **request})
    captured = CapturedCall(request=text, prompt_token_ids=[1], choices=choices, response_id=f"resp-{number}")
    return make_span("agentlightning.llm_call", number, attributes=encode_call(captured), id=f"s{number}")


def test_history_answer_and_tools_are_kept_whole() -> None:
    answer = {"role": "assistant", "content": "It rains.", "tool_calls": [TOOL_CALL], "refusal": None}
    (conversation,) = agl.TraceToMessages()([call(HISTORY, [answer], tools=TOOLS)])
    expected = {"role": "assistant", "content": "It rains.", "tool_calls": [TOOL_CALL]}
    assert conversation == {"messages": [*HISTORY, expected], "tools": TOOLS}


def test_an_answer_that_only_calls_tools_has_no_content() -> None:
    answers = [{"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}, {"tool_calls": [TOOL_CALL]}]
    for conversation in TraceToMessages()([call(HISTORY[:1], answers)]):
        assert conversation["messages"][-1] == {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
        assert conversation["tools"] is None


@settings(deadline=None)
@given(st.permutations([1, 2, 3]))
def test_conversations_are_ordered_and_failed_calls_are_none(order: list[int]) -> None:
    spans = [call([], [{"role": "assistant", "content": str(number)}], number) for number in order]
    spans.insert(1, make_call("failed", 2, error="HTTP 500"))
    assert [each["messages"][0]["content"] for each in TraceToMessages()(spans)] == ["1", "2", "3"]


def test_a_role_nobody_knows_costs_one_conversation(caplog: pytest.LogCaptureFixture) -> None:
    answer = [{"role": "assistant", "content": "x"}]
    with caplog.at_level(logging.WARNING):
        conversations = TraceToMessages()(
            [call([{"role": "oracle", "content": "?"}], answer, 1), call(HISTORY, answer, 2)]
        )
    assert [len(each["messages"]) for each in conversations] == [5]
    assert "Left out the conversation of span s1: unknown roles ['oracle']" in caplog.text


def agentops(attributes: Attributes, tools: int) -> list[Span]:
    """A call as AgentOps records it, with the tools it asked for in spans below."""
    attributes |= {
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "What?",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "Let me look.",
        "gen_ai.request.type": "chat",
        "gen_ai.response.id": "x",
    }
    below: list[Span] = []
    for number in range(tools):
        said: Attributes = {"tool.name": f"tool{number}", "tool.parameters": "{}", "tool.call.id": f"call_{number}"}
        below.append(make_span(f"tool_call.tool{number}", number + 2, "call", said | {"tool.call.type": "function"}))
    return [make_span("openai.chat.completion", 1, attributes=attributes, id="call"), *below]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tool_spans_below_a_call_become_its_tool_calls(count: int) -> None:
    spans = agentops({}, count)
    (conversation,) = TraceToMessages()(spans)
    expected = [
        {"id": f"call_{number}", "type": "function", "function": {"name": f"tool{number}", "arguments": "{}"}}
        for number in range(count)
    ]
    assert conversation["messages"][-1].get("tool_calls", []) == expected
    assert conversation["messages"][-1]["content"] == "Let me look."
    assert [each["name"] for each in TraceToMessages().get_tool_calls(spans[0], spans)] == [
        f"tool{number}" for number in range(count)
    ]


def test_declared_functions_become_tools() -> None:
    declared: Attributes = {
        "gen_ai.request.functions.0.name": "weather",
        "gen_ai.request.functions.0.description": "Weather of a city",
        "gen_ai.request.functions.0.parameters": '{"type": "object"}',
    }
    (conversation,) = TraceToMessages()(agentops(declared, 0))
    function = {"name": "weather", "description": "Weather of a city", "parameters": {"type": "object"}}
    assert conversation["tools"] == [{"type": "function", "function": function}]


def test_conversations_need_no_openai() -> None:
    program = "import sys, agentlightning as agl; agl.TraceToMessages()([]); print('openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
