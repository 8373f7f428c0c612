"""Whatever clients and backends send is translated, or refused by name: nothing else ever happens."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st

from agentlightning.errors import InvalidAnswer, InvalidRequest
from agentlightning.llm_proxy.dialects.call import Call
from agentlightning.llm_proxy.dialects.memory import Memory
from agentlightning.llm_proxy.dialects.messages import MessagesCall
from agentlightning.llm_proxy.dialects.responses import ResponsesCall
from agentlightning.llm_proxy.reply import Reply

Json = dict[str, Any]

ATTEMPT = ("r", "a")
KEYS = (
    "role content type text input output id call_id name arguments function tools tool_choice messages system format "
    "input_schema source tool_calls index delta message choices finish_reason usage prompt_tokens_details refusal "
    "reasoning_content thinking signature summary instructions image_url error reasoning stop_reason created"
).split()
WORDS = (
    "user assistant tool text tool_use tool_result image thinking function function_call function_call_output message "
    "reasoning input_text output_text base64 url any json_schema stop length a"
).split()
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
CALLS: list[Any] = [MessagesCall, ResponsesCall]


def call_of(kind: Any) -> Call:
    payload = {"model": "m", "max_tokens": 9, "input": "hi", "messages": [{"role": "user", "content": "hi"}]}
    return kind(payload, ATTEMPT, Memory())


@given(payload=OBJECTS, message=OBJECTS)
@pytest.mark.parametrize("kind", CALLS)
def test_any_request(kind: Any, payload: Json, message: Json) -> None:
    for given_payload in (payload, payload | {"messages": [message], "input": [message]}):
        with suppress(InvalidRequest):
            json.dumps(kind(given_payload, ATTEMPT, Memory()).request)


@given(message=VALUES, finish_reason=VALUES, more=OBJECTS)
@pytest.mark.parametrize("kind", CALLS)
def test_any_answer(kind: Any, message: Any, finish_reason: Any, more: Json) -> None:
    choice = {"message": message, "finish_reason": finish_reason, "stop_reason": finish_reason}
    for reply in (more, {"id": "c", "choices": [choice], **more}):
        with suppress(InvalidAnswer):
            json.loads(call_of(kind).answer(Reply(200, json.dumps(reply).encode())).body)


@given(deltas=st.lists(VALUES, max_size=4), finish_reason=VALUES, more=OBJECTS)
@pytest.mark.parametrize("kind", CALLS)
def test_any_stream(kind: Any, deltas: list[Any], finish_reason: Any, more: Json) -> None:
    view = call_of(kind).view()
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason} for delta in deltas]
    chunks = [{"id": "c", "choices": [choice]} for choice in choices] + [more]
    with suppress(InvalidAnswer):
        for chunk in chunks:
            view.of(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        view.end()
        assert view.error("late", "late") == b""
        return
    assert b"event: error" in view.error("no chat", "invalid_answer")
