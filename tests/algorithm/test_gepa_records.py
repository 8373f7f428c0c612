"""What a reflection model is shown of a rollout."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import agentlightning as agl
from agentlightning.algorithm.gepa.records import reflective_record
from agentlightning.types import Span
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call
from tests.adapter.spans import make_span

LOOK = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
ASKED = {"role": "user", "content": "Does it rain?"}
TURN = [ASKED, {"role": "assistant", "content": None, "tool_calls": [LOOK]}]


def call(number: int, messages: list[dict[str, Any]], answer: dict[str, Any]) -> Span:
    choice = CapturedChoice(token_ids=[1], logprobs=None, finish_reason="stop", message=answer)
    request = json.dumps({"model": "m", "messages": messages})
    captured = CapturedCall(request=request, prompt_token_ids=[1], choices=[choice], response_id=f"r{number}")
    return make_span("agentlightning.llm_call", number, attributes=encode_call(captured), id=f"s{number}")


def outputs(*spans: Span) -> str:
    return reflective_record("task", spans, 1.0, None)["Generated Outputs"]


async def spans_of(agent: Any) -> list[Span]:
    store = agl.InMemoryLightningStore()
    runner = agl.LitAgentRunner[Any](agl.OtelTracer())
    made: agl.LitAgent[Any] = agl.rollout(agent)  # pyright: ignore[reportAssignmentType]  # it is given a function
    with runner.run_context(agent=made, store=store):
        rollout = await runner.step({})
    found = list(await store.query_spans(rollout.rollout_id))
    await store.close()
    return found


def test_a_call_whose_history_a_later_one_repeats_is_told_once() -> None:
    first = call(1, [ASKED], TURN[1])
    second = call(2, [*TURN, {"role": "tool", "content": "clouds"}], {"role": "assistant", "content": "Soon."})
    assert outputs(first, second) == (
        '[user] Does it rain?\n\n[assistant] calls look({"at": "sky"})\n\n[tool] clouds\n\n[assistant] Soon.'
    )


def test_calls_of_their_own_are_told_each() -> None:
    first = call(1, [ASKED], {"role": "assistant", "content": "No."})
    second = call(2, [{"role": "user", "content": "Really?"}], {"role": "assistant", "content": "Yes."})
    again = call(3, [ASKED], {"role": "assistant", "content": "Maybe."})
    told = outputs(first, second, again).split("(another conversation)")
    assert [text.strip().rpartition("] ")[2] for text in told] == ["No.", "Yes.", "Maybe."]


def test_a_long_conversation_keeps_its_beginning_and_its_end() -> None:
    text = outputs(call(1, [{"role": "user", "content": "a" * 50_000}], {"role": "assistant", "content": "End."}))
    assert len(text) < 11_000
    assert text.startswith("[user] aaa")
    assert text.endswith("End.")


def test_of_an_image_it_is_only_said_that_there_was_one() -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:" + "x" * 99}}]
    text = outputs(call(1, [{"role": "user", "content": parts}], {"role": "assistant", "content": "A cat."}))
    assert text == "[user] What is it?\n(image_url)\n\n[assistant] A cat."


async def test_feedback_has_dimensions_messages_and_exceptions() -> None:
    async def agent(task: Any) -> None:
        agl.emit_message("Too long by 3 words.")
        agl.emit_exception(ValueError("no such city"))
        with agl.operation(name="lookup") as looking:
            looking.set_output("nothing")
        agl.emit_reward({"right": 0.5, "short": 0.0}, primary_key="right")

    record = reflective_record({"city": "Zürich"}, await spans_of(agent), 0.5, None)
    assert record["Inputs"] == '{"city": "Zürich"}'
    assert record["Generated Outputs"] == "no model call was seen"
    assert record["Feedback"].splitlines() == [
        "Reward: 0.5",
        "right 0.5; short 0",
        "Too long by 3 words.",
        "ValueError: no such city",
    ]


async def test_feedback_of_a_failure_says_what_failed() -> None:
    async def agent(task: Any) -> None:
        with suppress(ValueError), agl.operation(name="lookup"):
            raise ValueError("no such city")

    record = reflective_record({}, await spans_of(agent), None, "it was cancelled before it ended")
    assert record["Feedback"].splitlines() == [
        "Reward: none was given",
        "agentlightning.operation failed: ValueError: no such city",
        "The rollout failed with it was cancelled before it ended",
    ]


def test_a_task_without_json_is_told_as_text() -> None:
    assert reflective_record({1, 2}, [], 0.0, None)["Inputs"] == "{1, 2}"
