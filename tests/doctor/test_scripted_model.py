from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from agentlightning.doctor import Reply, ScriptedModel, ToolCall
from agentlightning.doctor.schema import example_of
from agentlightning.doctor.tokens import decode, encode, render_prompt

LOOKUP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "lookup",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["key"],
        },
    },
}
EXACT = {"return_token_ids": True}
QUESTION: dict[str, Any] = {"role": "user", "content": "What is the value of ruby?"}


def client_of(model: ScriptedModel) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=model.url, api_key="none", max_retries=0)


async def ask(model: ScriptedModel, **request: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"model": model.name, "messages": [QUESTION], "logprobs": True, "extra_body": EXACT}
    async with client_of(model) as client:
        completion: Any = await client.chat.completions.create(**given | request)
    return completion.model_dump()


async def stream(model: ScriptedModel, **request: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"model": model.name, "messages": [QUESTION], "logprobs": True, "extra_body": EXACT}
    async with client_of(model) as client:
        chunks: Any = await client.chat.completions.create(**given | request, stream=True)
        return [chunk.model_dump() async for chunk in chunks]


async def test_each_offered_tool_is_called_once_and_then_there_is_an_answer() -> None:
    second = {"type": "function", "function": {"name": "submit", "parameters": {"type": "object"}}}
    messages = [QUESTION]
    called: list[str] = []
    async with ScriptedModel() as model:
        for _ in range(3):
            message = (await ask(model, messages=messages, tools=[LOOKUP, second]))["choices"][0]["message"]
            messages.append({key: message[key] for key in ("role", "content", "tool_calls") if message[key]})
            for call in message["tool_calls"] or []:
                called.append(call["function"]["name"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": "42"})
    assert called == ["lookup", "submit"]
    assert messages[-1]["content"] == "Answer to message 5."


async def test_a_history_that_is_given_back_unchanged_keeps_its_tokens() -> None:
    replies = [Reply("Let me look.", [ToolCall("lookup", {"key": "ruby"}), ToolCall("lookup", {"key": "é🙂"})]), "42"]
    async with ScriptedModel(replies) as model:
        first = await ask(model, tools=[LOOKUP])
        choice = first["choices"][0]
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "1"} for call in choice["message"]["tool_calls"]
        ]
        second = await ask(model, messages=[QUESTION, choice["message"], *results], tools=[LOOKUP])
    tokens = first["prompt_token_ids"] + choice["token_ids"]
    assert second["prompt_token_ids"][: len(tokens)] == tokens


async def test_retokenised_histories_have_other_tokens_for_the_same_text() -> None:
    async with ScriptedModel(["The value is 42.", "Yes."], retokenise=True) as model:
        first = await ask(model)
        message = first["choices"][0]["message"]
        second = await ask(model, messages=[QUESTION, message, QUESTION])
    tokens = first["prompt_token_ids"] + first["choices"][0]["token_ids"]
    assert second["prompt_token_ids"][: len(first["prompt_token_ids"])] == first["prompt_token_ids"]
    assert second["prompt_token_ids"][: len(tokens)] != tokens
    assert decode(second["prompt_token_ids"]).startswith(decode(tokens))


async def test_a_stream_says_what_the_whole_answer_says() -> None:
    reply = Reply("Two at once.", [ToolCall("lookup", {"key": "ruby"}), ToolCall("lookup", '{ "key":"jade" }')])
    async with ScriptedModel(lambda _: reply) as model:
        whole = await ask(model, tools=[LOOKUP], n=2)
        chunks = await stream(model, tools=[LOOKUP], n=2, stream_options={"include_usage": True})
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for index, expected in enumerate(whole["choices"]):
        pieces = [piece for chunk in chunks for piece in chunk["choices"] if piece["index"] == index]
        assert [token for piece in pieces for token in piece.get("token_ids", [])] == expected["token_ids"]
        logprobs = [each for piece in pieces if piece["logprobs"] for each in piece["logprobs"]["content"]]
        assert logprobs == expected["logprobs"]["content"]
        assert "".join(piece["delta"]["content"] or "" for piece in pieces) == expected["message"]["content"]
        assert pieces[-1]["finish_reason"] == expected["finish_reason"] == "tool_calls"
        assert arguments_of(pieces) == [call["function"]["arguments"] for call in expected["message"]["tool_calls"]]


def arguments_of(pieces: list[dict[str, Any]]) -> list[str]:
    arguments: dict[int, str] = {}
    for piece in pieces:
        for call in piece["delta"]["tool_calls"] or []:
            arguments[call["index"]] = arguments.get(call["index"], "") + call["function"]["arguments"]
    return [arguments[index] for index in sorted(arguments)]


async def test_tokens_come_only_when_they_are_asked_for() -> None:
    async with ScriptedModel(["x"]) as model:
        answer = await ask(model, extra_body={}, logprobs=False)
    assert "prompt_token_ids" not in answer
    assert "token_ids" not in answer["choices"][0]
    assert answer["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    "switches", [{"token_ids": False}, {"stream_token_ids": False}], ids=["never", "not-in-streams"]
)
async def test_servers_that_name_no_tokens(switches: dict[str, bool]) -> None:
    async with ScriptedModel(["x"], **switches) as model:
        whole, chunks = await ask(model), await stream(model)
    assert ("prompt_token_ids" in whole) == switches.get("token_ids", True)
    assert not any("token_ids" in piece for chunk in chunks for piece in chunk["choices"])
    assert "prompt_token_ids" not in chunks[0]


async def test_a_list_of_replies_is_gone_through_again_and_again() -> None:
    async with ScriptedModel(["a", "b"]) as model:
        answers = [(await ask(model, n=n))["choices"] for n in (1, 2)]
    assert [choice["message"]["content"] for choices in answers for choice in choices] == ["a", "b", "a"]
    assert [request.get("n", 1) for request in model.requests] == [1, 2]


def test_it_serves_a_program_without_an_event_loop() -> None:
    with ScriptedModel(["hello"]) as model, OpenAI(base_url=model.url, api_key="none") as client:
        assert client.models.list().data[0].id == "scripted"
        completion = client.completions.create(model="scripted", prompt="say", logprobs=1, extra_body=EXACT)
    choice: Any = completion.choices[0]
    assert choice.text == "hello"
    assert decode(choice.token_ids) == "hello<|im_end|>"
    assert len(choice.logprobs.token_logprobs) == len(choice.token_ids)


async def test_what_is_no_conversation_is_refused() -> None:
    async with ScriptedModel() as model:
        with pytest.raises(BadRequestError, match="messages must be a list"):
            await ask(model, messages=[])


def test_no_replies_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="not empty"):
        ScriptedModel([])


@given(st.text(st.characters(codec=None, exclude_categories=())), st.booleans())
def test_tokens_give_their_text_back(text: str, pairs: bool) -> None:
    assert decode(encode(text, pairs=pairs)) == text


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.text()), min_size=1), st.text())
def test_a_longer_conversation_starts_with_the_shorter_one(turns: list[tuple[str, str]], answer: str) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    tokens = [*render_prompt(messages, [LOOKUP]), *encode(answer)]
    longer = render_prompt([*messages, {"role": "assistant", "content": answer}], [LOOKUP])
    assert longer[: len(tokens)] == tokens


def test_examples_of_schemas_hold_what_is_required() -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"$ref": "#/$defs/City"},
            "unit": {"enum": ["celsius", "kelvin"]},
            "days": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "more": {"type": "string"},
        },
        "required": ["city", "unit", "days", "note"],
        "$defs": {"City": {"type": "object", "properties": {"name": {"type": ["string", "null"]}}}},
    }
    example = {"city": {"name": "text"}, "unit": "celsius", "days": [1, 1], "note": None}
    assert example_of(schema) == example
    assert json.dumps(example_of(schema)) == json.dumps(example)


NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
    "required": ["value", "next"],
}


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}, {"value": 1, "next": None}),
        ({"properties": {"self": {"$ref": "#"}, "x": {"const": 2}}}, {"self": {"x": 2}, "x": 2}),
        ({"properties": {"self": {"type": "array", "items": {"$ref": "#"}}}}, {"self": []}),
        ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"enum": [3]}}}, 3),
        ({"properties": {"any": True}}, {"any": None}),
    ],
    ids=["linked-list", "root", "array", "definitions", "true"],
)
def test_schemas_may_refer_to_themselves(schema: Any, example: Any) -> None:
    assert example_of(schema) == example


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#", "x": 1}, "has no end"),
        ({"$ref": "#/$defs/Nobody"}, "'#/\\$defs/Nobody', which is not in it"),
        ({"properties": ["x"]}, "no JSON schema"),
        ({"type": 3}, "no JSON schema"),
    ],
    ids=str,
)
async def test_tools_that_cannot_be_called_are_refused_with_a_sentence(schema: Any, words: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    async with ScriptedModel() as model:
        with pytest.raises(BadRequestError, match=words):
            await ask(model, tools=[tool])


async def test_choices_of_tools_that_name_no_function_are_left_to_the_model() -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [LOOKUP]}}
    async with ScriptedModel() as model:
        first = await ask(model, tools=[LOOKUP], tool_choice=choice)
        called = first["choices"][0]["message"]
        messages = [QUESTION, called, {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": "42"}]
        assert [call["function"]["name"] for call in called["tool_calls"]] == ["lookup"]
        assert not (await ask(model, tools=[LOOKUP], tool_choice=choice, messages=messages))["choices"][0]["message"][
            "tool_calls"
        ]


async def test_other_protocols_are_refused_and_remembered() -> None:
    async with ScriptedModel() as model, client_of(model) as client:
        with pytest.raises(NotFoundError, match="use /v1/chat/completions"):
            await client.responses.create(model="scripted", input="hello")
        assert model.unknown_paths == ["/v1/responses"]
        assert model.requests == []
