"""The forms that other tracers write: each is read into the same record.

The spans have the keys that AgentOps 0.4.21 (with openai 1.91) and LiteLLM 1.106 were seen to write.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning import semconv
from agentlightning.adapter.llm_call import read_calls
from agentlightning.adapter.sources.litellm import literal
from agentlightning.types import Attributes, Event, LLMCall, Span, TraceStatus
from agentlightning.types.attributes import flatten_attributes, sanitize_attributes

Json = dict[str, Any]

OUTPUT = semconv.LightningSpanAttributes.OPERATION_OUTPUT.value
INPUT = semconv.LightningSpanAttributes.OPERATION_INPUT.value
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "W", "parameters": PARAMETERS}}


def called(call_id: str, arguments: str = '{"city": "Oslo"}') -> Json:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


HISTORY: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, IMAGE]},
    {"role": "assistant", "content": None, "tool_calls": [called("c0")]},
    {"role": "tool", "content": "rain", "tool_call_id": "c0"},
]


def make_span(name: str, attributes: Json, parent: Span | None = None, error: str | None = None) -> Span:
    return Span.from_attributes(
        attributes=sanitize_attributes(attributes),
        rollout_id="r",
        attempt_id="a",
        sequence_id=1,
        name=name,
        start_time=1.0,
        end_time=2.0,
        parent_id=parent.span_id if parent else None,
        status=TraceStatus(status_code="ERROR", description=error) if error else None,
    )


def the_call(*spans: Span) -> LLMCall:
    (call,) = read_calls(spans).calls
    return call


AGENTOPS: Json = {
    "gen_ai.request.type": "chat",
    "gen_ai.request.model": "m",
    "gen_ai.request.temperature": 0.5,
    "gen_ai.request.streaming": False,
    "gen_ai.system": "OpenAI",
    "gen_ai.prompt.0.role": "system",
    "gen_ai.prompt.0.content": "Be brief.",
    "gen_ai.prompt.1.role": "user",
    "gen_ai.prompt.1.content": json.dumps(HISTORY[1]["content"]),
    "gen_ai.prompt.2.role": "assistant",
    "gen_ai.prompt.2.tool_calls.0.id": "c0",
    "gen_ai.prompt.2.tool_calls.0.name": "weather",
    "gen_ai.prompt.2.tool_calls.0.arguments": '{"city": "Oslo"}',
    "gen_ai.prompt.3.role": "tool",
    "gen_ai.prompt.3.content": "rain",
    "gen_ai.prompt.3.tool_call_id": "c0",
    "gen_ai.request.functions.0.name": "weather",
    "gen_ai.request.functions.0.description": "W",
    "gen_ai.request.functions.0.parameters": json.dumps(PARAMETERS),
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.model": "m-1",
    "gen_ai.openai.system_fingerprint": "fp",
    "gen_ai.usage.prompt_tokens": 3,
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.content": "",
    "gen_ai.completion.0.finish_reason": "tool_calls",
    "prompt_token_ids": [1, 2, 3],
    "response_token_ids": [4, 5],
    "logprobs.content": json.dumps([{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1}]),
}


def test_the_keys_of_agentops_are_read_whole() -> None:
    span = make_span("openai.chat.completion", AGENTOPS)
    tool = {"tool.name": "weather", "tool.parameters": '{"city": "Oslo"}', "tool.call.id": "c1"}
    call = the_call(make_span("tool_call.weather", tool, span), span)
    assert (call.prompt_token_ids, call.response_token_ids, call.response_logprobs) == ([1, 2, 3], [4, 5], [-0.5, -1.0])
    assert call.messages == HISTORY
    assert call.message == {"role": "assistant", "content": "", "tool_calls": [called("c1")]}
    assert call.tools == [TOOL]
    assert (call.model, call.sampling, call.temperature) == ("m", {"temperature": 0.5}, 0.5)
    assert (call.response_id, call.finish_reason) == ("chatcmpl-1", "tool_calls")
    assert call.response["model"] == "m-1"
    assert (call.response["system_fingerprint"], call.response["usage"]) == ("fp", {"prompt_tokens": 3})
    assert (call.source, call.streamed) == ("agentops", False)


def test_three_hundred_messages_keep_their_order() -> None:
    attributes = flatten_attributes({"gen_ai.prompt": [{"role": "user", "content": str(i)} for i in range(300)]})
    call = the_call(make_span("openai.chat.completion", attributes | {"response_token_ids": [1]}))
    assert [message["content"] for message in call.messages] == [str(i) for i in range(300)]


@pytest.mark.parametrize("kind", ["llm", "AgentOpsSpanKindValues.LLM"])
def test_spans_that_agentops_calls_model_calls_are_some(kind: str) -> None:
    assert len(read_calls([make_span("x", AGENTOPS | {"agentops.span.kind": kind})]).calls) == 1


@pytest.mark.parametrize("kind", ["agent", "session", "tool", "AgentOpsSpanKindValues.WORKFLOW"])
def test_spans_of_agentops_that_are_no_model_calls_are_none(kind: str) -> None:
    assert read_calls([make_span("x", AGENTOPS | {"agentops.span.kind": kind})]).seen == []


GEN_AI: Json = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "m",
    "gen_ai.request.temperature": 0.5,
    "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
    "gen_ai.input.messages": json.dumps(
        [
            {
                "role": "user",
                "parts": [
                    {"type": "text", "content": "What is it?"},
                    {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "AA"},
                ],
            },
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "id": "c0", "name": "weather", "arguments": {"city": "Oslo"}}],
            },
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c0", "response": "rain"}]},
        ]
    ),
    "gen_ai.output.messages": json.dumps(
        [{"role": "assistant", "parts": [{"type": "text", "content": "A"}]}, {"role": "assistant", "parts": []}]
    ),
    "gen_ai.tool.definitions": json.dumps(
        [{"type": "function", "name": "weather", "description": "W", "parameters": PARAMETERS}]
    ),
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.finish_reasons": ["stop", "length"],
    "gen_ai.usage.input_tokens": 3,
}


def test_opentelemetrys_json_messages_are_read_whole() -> None:
    first, second = read_calls([make_span("chat m", GEN_AI)]).calls
    assert first.messages == HISTORY
    assert (first.message, second.message["content"]) == ({"role": "assistant", "content": "A"}, None)
    assert [each.finish_reason for each in (first, second)] == ["stop", "length"]
    assert (first.tools, first.model, first.response_id) == ([TOOL], "m", "chatcmpl-1")
    assert (first.sampling, first.source) == ({"temperature": 0.5}, "gen_ai")


@pytest.mark.parametrize("operation", ["embeddings", "invoke_agent", "execute_tool"])
def test_other_operations_of_opentelemetry_are_no_calls(operation: str) -> None:
    assert read_calls([make_span("x", GEN_AI | {"gen_ai.operation.name": operation})]).seen == []


CHOICE: Json = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A"}}


@pytest.mark.parametrize(
    ("output", "sampled"),
    [
        ({"choices": [CHOICE | {"token_ids": [4]}, CHOICE | {"token_ids": [5]}]}, [[4], [5]]),
        ({"choices": [CHOICE | {"provider_specific_fields": {"token_ids": [4]}}]}, [[4]]),
        ({"choices": [CHOICE, CHOICE], "response_token_ids": [[4], [5]]}, [[4], [5]]),
        ({"response_token_ids": [[4]]}, [[4]]),
    ],
    ids=["choices", "provider_specific", "beside", "tokens_alone"],
)
def test_an_operation_that_returns_an_answer_is_a_call(output: Json, sampled: list[list[int]]) -> None:
    said = {"id": "chatcmpl-1", "prompt_token_ids": [1, 2], "weights_version": 3} | output
    sent = {"model": "m", "messages": HISTORY, "temperature": 0.5, "tools": [TOOL]}
    span = make_span(semconv.AGL_OPERATION, flatten_attributes({INPUT: sent, OUTPUT: said}))
    calls = read_calls([span]).calls
    assert [call.response_token_ids for call in calls] == sampled
    for call in calls:
        assert (call.prompt_token_ids, call.response_id, call.weights_version) == ([1, 2], "chatcmpl-1", 3)
        assert [message["role"] for message in call.messages] == ["system", "user", "assistant", "tool"]
        assert (call.tools, call.sampling, call.source) == ([TOOL], {"temperature": 0.5}, "operation")


@pytest.mark.parametrize(
    "output", [{"choices": ["red", "blue"]}, {"choices": [{"label": "red"}]}, {"content": [{"text": "x"}]}, {}]
)
def test_an_operation_that_returns_something_else_is_no_call(output: Json) -> None:
    assert read_calls([make_span(semconv.AGL_OPERATION, flatten_attributes({OUTPUT: output}))]).seen == []


def litellm_spans() -> list[Span]:
    """What LiteLLM's callback writes for one request: its own words, and below them the provider's."""
    choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": "A"}, "token_ids": [4, 5]}
    request = make_span(
        "litellm_request",
        {
            "gen_ai.request.model": "m",
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "Hi",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "A",
            "gen_ai.completion.0.finish_reason": "stop",
            "llm.request.functions.0.name": "weather",
            "llm.request.functions.0.description": "W",
            "llm.request.functions.0.parameters": json.dumps(PARAMETERS),
        },
    )
    raw = {
        "llm.hosted_vllm.messages": str([{"role": "user", "content": "Hi", "name": None}]),
        "llm.hosted_vllm.temperature": 0.5,
        "llm.hosted_vllm.id": "chatcmpl-1",
        "llm.hosted_vllm.system_fingerprint": "fp",
        "llm.hosted_vllm.prompt_token_ids": "[1, 2, 3]",
        "llm.hosted_vllm.choices": str([choice]),
        "llm.hosted_vllm.usage": str({"prompt_tokens": 3, "details": None}),
    }
    return [request, make_span("raw_gen_ai_request", raw, request)]


def test_litellms_two_spans_are_one_call() -> None:
    call = the_call(*litellm_spans())
    assert (call.prompt_token_ids, call.response_token_ids, call.response_id) == ([1, 2, 3], [4, 5], "chatcmpl-1")
    assert call.messages == [{"role": "user", "content": "Hi", "name": None}]
    assert call.message == {"role": "assistant", "content": "A"}
    assert (call.sampling, call.temperature, call.source, call.model) == ({"temperature": 0.5}, 0.5, "litellm", "m")
    assert call.response["system_fingerprint"] == "fp"
    assert call.response["usage"] == {"prompt_tokens": 3, "details": None}


NEWER: Json = {
    "gen_ai.operation.name": "acompletion",
    "gen_ai.request.model": "m",
    "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]),
    "gen_ai.output.messages": json.dumps(
        [{"role": "assistant", "parts": [{"type": "text", "content": "A"}], "finish_reason": "stop"}]
    ),
    "gen_ai.response.finish_reasons": '["stop"]',
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.completion.0.function_call.name": "weather",
    "llm.request.functions.0.name": "weather",
    "llm.request.functions.0.description": "W",
    "llm.request.functions.0.parameters": json.dumps(PARAMETERS),
    "prompt_token_ids": [1],
    "response_token_ids": [2],
}


def test_litellms_newer_words_are_read() -> None:
    call = the_call(make_span("litellm_request", NEWER))
    assert call.messages == [{"role": "user", "content": "Hi"}]
    assert (call.message, call.finish_reason) == ({"role": "assistant", "content": "A"}, "stop")
    assert (call.prompt_token_ids, call.response_token_ids, call.tools) == ([1], [2], [TOOL])
    assert (call.response_id, call.model) == ("chatcmpl-1", "m")


def test_a_reason_that_stands_in_an_event_alone_is_found() -> None:
    span = make_span("litellm_request", NEWER, error="x")
    span.status.description = None
    assert read_calls([span]).failed[0].failure == "it ended in an error that says nothing"
    span.events = [Event(name="exception", attributes={"exception.message": "HTTP 500"})]
    assert read_calls([span]).failed[0].failure == "HTTP 500"


def test_litellms_older_keys_are_read() -> None:
    raw = {"llm.hosted_vllm.prompt_token_ids": "[1]", "llm.hosted_vllm.response_token_ids": "[[2], [3]]"}
    assert [call.response_token_ids for call in read_calls([make_span("raw_gen_ai_request", raw)]).calls] == [[2], [3]]
    own = {"prompt_token_ids": [1], "response_token_ids": [2]}
    assert the_call(make_span("litellm_request", own)).response_token_ids == [2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2]", [1, 2]),
        ("{'a': None, 'b': True}", {"a": None, "b": True}),
        ("plain words", "plain words"),
        ("[1, 2", "[1, 2"),
        ("[open('/etc/passwd')]", "[open('/etc/passwd')]"),
        (f"['{'x' * 2_000_000}']", f"['{'x' * 2_000_000}']"),
        ("[" * 5_000, "[" * 5_000),
    ],
    ids=["json", "python", "words", "broken", "code", "long", "deep"],
)
def test_texts_of_python_values_are_read_within_limits(text: str, value: Any) -> None:
    assert literal(text) == value


SPANS: dict[str, list[Span]] = {
    "agentops": [make_span("openai.chat.completion", AGENTOPS)],
    "gen_ai": [make_span("chat m", GEN_AI)],
    "operation": [make_span("op", flatten_attributes({OUTPUT: {"choices": [CHOICE]}}))],
    "litellm": litellm_spans(),
    "litellm_newer": [make_span("litellm_request", NEWER)],
    "openinference": [
        make_span(
            "ChatOpenAI",
            {
                "openinference.span.kind": "LLM",
                "output.value": json.dumps({"generations": [[{"message": {"kwargs": {"response_metadata": {}}}}]]}),
                "llm.invocation_parameters": '{"temperature": 0.5}',
                "llm.input_messages.0.message.role": "user",
                "llm.input_messages.0.message.contents.0.message_content.type": "text",
                "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "f",
                "llm.tools.0.tool.json_schema": json.dumps(TOOL),
            },
        )
    ],
}


@pytest.mark.parametrize("source", SPANS)
def test_a_call_that_failed_is_counted_with_its_reason_and_nothing_else(source: str) -> None:
    spans = [
        span.model_copy(update={"status": TraceStatus(status_code="ERROR", description="HTTP 500")})
        for span in SPANS[source]
    ]
    read = read_calls(spans)
    assert (read.calls, [failed.failure for failed in read.failed]) == ([], ["HTTP 500"])


junk = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5)
junk_json = st.recursive(junk, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
texts = st.text(max_size=10) | junk_json.map(json.dumps)
values = (
    texts
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.lists(st.integers(), max_size=3)
    | st.lists(texts)
)


@pytest.mark.parametrize("source", SPANS)
@settings(deadline=None)
@given(data=st.data())
def test_whatever_stands_in_its_attributes_a_span_is_read_or_reported(source: str, data: st.DataObject) -> None:
    spans: list[Span] = []
    for span in SPANS[source]:
        keys = data.draw(st.lists(st.sampled_from(sorted(span.attributes)), unique=True, max_size=4))
        attributes: Attributes = span.attributes | {key: data.draw(values) for key in keys}
        spans.append(span.model_copy(update={"attributes": attributes}))
    read = read_calls(spans)
    for call in read.calls:
        assert all(isinstance(message, dict) for message in call.messages)
        assert set(map(type, call.prompt_token_ids + call.response_token_ids)) <= {int}
    assert all(seen.failure is not None for seen in read.failed)
