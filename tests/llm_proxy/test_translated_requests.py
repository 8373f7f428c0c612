"""Requests of Messages and Responses, as the backend gets them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentlightning.errors import InvalidRequest
from agentlightning.llm_proxy.dialects.memory import Memory
from agentlightning.llm_proxy.dialects.messages import MessagesCall, refusal
from agentlightning.llm_proxy.dialects.responses import ResponsesCall
from agentlightning.llm_proxy.reply import Reply

Json = dict[str, Any]

ATTEMPT = ("r", "a")
HI: Json = {"role": "user", "content": "hi"}
TOOL_USE: Json = {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": "ü"}}
FUNCTION: Json = {"type": "function", "function": {"name": "look"}}


def of_messages(**fields: Any) -> Json:
    return MessagesCall({"model": "m", "max_tokens": 9, "messages": [HI], **fields}, ATTEMPT, Memory()).request


def of_responses(**fields: Any) -> Json:
    return ResponsesCall({"model": "m", "input": "hi", **fields}, ATTEMPT, Memory()).request


def chat_message(*items: Json) -> list[Json]:
    return of_responses(input=list(items))["messages"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0, "top_k": 3, "stream": True}, {"temperature": 0, "top_k": 3, "stream": True}),
        ({"stop_sequences": ["\n"]}, {"stop": ["\n"]}),
        ({"min_p": 0.1}, {"min_p": 0.1}),
        ({"metadata": {"user_id": "u"}, "service_tier": "auto", "thinking": {"type": "disabled"}}, {}),
        ({"tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
        ({"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
        (
            {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        ({"tool_choice": {"type": "tool", "name": "look"}}, {"tool_choice": FUNCTION}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
    ],
)
def test_fields_of_messages(fields: Json, expected: Json) -> None:
    assert of_messages(**fields) == {"model": "m", "max_tokens": 9, "messages": [HI], **expected}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0, "top_p": 0.5, "stream": True}, {"temperature": 0, "top_p": 0.5, "stream": True}),
        ({"max_output_tokens": 5}, {"max_tokens": 5}),
        ({"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}),
        ({"store": False, "include": [], "metadata": {}, "truncation": "auto"}, {}),
        ({"min_p": 0.1, "user": "u"}, {"min_p": 0.1, "user": "u"}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        ({"tool_choice": {"type": "function", "name": "look"}}, {"tool_choice": FUNCTION}),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]}},
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [FUNCTION]}}},
        ),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    ],
)
def test_fields_of_responses(fields: Json, expected: Json) -> None:
    assert of_responses(**fields) == {"model": "m", "messages": [HI], **expected}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "a\n"}, {"type": "text", "text": "b"}]}, "a\nb"),
        ({"role": "user", "content": [{"type": "x", "y": 1}]}, [{"type": "x", "y": 1}]),
        (
            {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://i/"}}]},
            [{"type": "image_url", "image_url": {"url": "http://i/"}}],
        ),
    ],
)
def test_contents_of_messages(message: Json, expected: Any) -> None:
    assert of_messages(messages=[message])["messages"] == [{"role": "user", "content": expected}]


def test_a_history_of_messages() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "reasoning"}
    said = {"type": "text", "text": "so "}
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "1\n"}]},
        {"type": "tool_result", "tool_use_id": "t2"},
        {"type": "text", "text": "go on"},
    ]
    request = of_messages(
        system=[
            {"type": "text", "text": "be ", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "so"},
        ],
        messages=[
            HI,
            {"role": "assistant", "content": [thought, said, TOOL_USE]},
            {"role": "user", "content": results},
        ],
    )
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"a": "ü"}'}}
    assert request["messages"] == [
        {"role": "system", "content": "be so"},
        HI,
        {"role": "assistant", "content": "so ", "reasoning": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "1\n"},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {"role": "user", "content": "go on"},
    ]


@pytest.mark.parametrize(
    ("told", "key"),
    [
        ("reasoning", "reasoning"),
        ("reasoning_content", "reasoning_content"),
        ("role", "reasoning_content"),
        ("EqQBCgIYAhIM", "reasoning_content"),
        ("", "reasoning_content"),
        (None, "reasoning_content"),
        (["role"], "reasoning_content"),
    ],
)
def test_thoughts_go_back_under_no_name_but_that_of_thoughts(told: Any, key: str) -> None:
    expected = {"role": "assistant", "content": "so", key: "hm"}
    thought: Json = {"type": "thinking", "thinking": "hm", "signature": told}
    blocks = [thought, {"type": "text", "text": "so"}]
    assert of_messages(messages=[HI, {"role": "assistant", "content": blocks}, HI])["messages"][1] == expected
    item = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}], "encrypted_content": told}
    assert chat_message(item, {"role": "assistant", "content": "so"}) == [expected]


def test_an_answer_that_the_client_began_is_continued() -> None:
    request = of_messages(messages=[HI, {"role": "assistant", "content": "The answer is"}])
    assert (request["continue_final_message"], request["add_generation_prompt"]) == (True, False)


def test_items_of_one_answer_are_one_message_and_those_of_two_are_two() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{ }"}
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
    chat_call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{ }"}}
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    assert chat_message(said, call, output, said) == [
        {"role": "assistant", "content": "a", "tool_calls": [chat_call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
        {"role": "assistant", "content": "a"},
    ]
    assert chat_message(said, said) == [{"role": "assistant", "content": "a"}] * 2
    one, two = ({**said, "id": f"msg_0_{name}"} for name in ("one", "two"))
    assert chat_message(one, {**one, "id": "msg_1_one"}, two) == [
        {"role": "assistant", "content": "aa"},
        {"role": "assistant", "content": "a"},
    ]


def test_instructions_are_not_carried_over() -> None:
    memory = Memory()
    first = ResponsesCall({"model": "m", "input": "hi", "instructions": "be"}, ATTEMPT, memory)
    answered = {"id": "c-1", "model": "m", "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
    first.answer(Reply(200, json.dumps(answered).encode()))
    later = {"model": "m", "input": "go", "instructions": "act", "previous_response_id": "c-1"}
    assert ResponsesCall(later, ATTEMPT, memory).request["messages"] == [
        {"role": "system", "content": "act"},
        HI,
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "go"},
    ]
    with pytest.raises(InvalidRequest, match="of this attempt"):
        ResponsesCall(later, ("r", "b"), memory)
    first.answer(Reply(200, json.dumps(answered).encode()))
    with pytest.raises(InvalidRequest, match="several answers"):
        ResponsesCall(later, ATTEMPT, memory)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"n": 2}, "'n'"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]}, "base64 or url"),
        ({"messages": [{"role": "user"}]}, "no request for a message: KeyError: 'content'"),
        ({"messages": "hi"}, "no request for a message"),
    ],
)
def test_messages_that_no_chat_can_say(fields: Json, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        of_messages(**fields)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tool_choice": {"type": "mcp"}}, "mcp"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "send the item itself"),
        ({"input": [{"type": "computer_call"}]}, "computer_call"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "as image_url"),
        ({"input": 7}, "no request for a response"),
        ({"previous_response_id": "x"}, "no response 'x'"),
    ],
)
def test_responses_that_no_chat_can_say(fields: Json, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        of_responses(**fields)


@pytest.mark.parametrize(
    ("finish_reason", "stopped_by", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "\n\n", ("stop_sequence", "\n\n")),
        ("stop", 151645, ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
        ("content_filter", None, ("refusal", None)),
        ("abort", None, ("abort", None)),
    ],
)
def test_why_a_message_ended(finish_reason: str, stopped_by: Any, expected: tuple[str, str | None]) -> None:
    call = MessagesCall({"model": "m", "max_tokens": 9, "messages": [HI]}, ATTEMPT, Memory())
    choice = {"message": {"content": "a"}, "finish_reason": finish_reason, "stop_reason": stopped_by}
    reply = Reply(200, json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode())
    message = json.loads(call.answer(reply).body)
    assert (message["stop_reason"], message["stop_sequence"]) == expected


@pytest.mark.parametrize(
    "body",
    [
        '{"error": {"message": "no room", "type": "x"}}',
        '{"object": "error", "message": "no room"}',
        '{"detail": "no room"}',
        "no room",
    ],
)
def test_errors_of_all_forms_keep_their_words(body: str) -> None:
    said = refusal(Reply(400, body.encode(), {"Content-Type": "text/plain", "x-request-id": "7"}))
    assert json.loads(said.body)["error"] == {"type": "invalid_request_error", "message": "no room"}
    assert said.headers == {"x-request-id": "7", "content-type": "application/json"}
