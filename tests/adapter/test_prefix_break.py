"""What broke a prefix is told from messages and tokens: template, retokenisation, tool call written anew, edit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agentlightning.adapter import merge_calls
from agentlightning.adapter.prefix_break import BreakKind, PrefixBreak
from agentlightning.doctor.tokens import END, encode, render_prompt, segments
from agentlightning.types import LLMCall

Json = dict[str, Any]

SYSTEM: Json = {"role": "system", "content": "Be brief."}
HI: Json = {"role": "user", "content": "Hi"}
MORE: Json = {"role": "user", "content": "More"}
HELLO: Json = {"role": "assistant", "content": "Hello there."}
TOOL: Json = {"type": "function", "function": {"name": "weather", "parameters": {}}}
RESULT: Json = {"role": "tool", "tool_call_id": "c", "content": "rain"}


def calling(arguments: str, content: str | None = None) -> Json:
    function = {"name": "weather", "arguments": arguments}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }


def make_call(
    messages: list[Json], answer: Json, prompt: list[int] | None = None, tools: list[Json] | None = None
) -> LLMCall:
    return LLMCall(
        rollout_id="r",
        attempt_id="a",
        sequence_id=len(messages),
        start_time=0.0,
        end_time=0.0,
        prompt_token_ids=render_prompt(messages, tools) if prompt is None else prompt,
        response_token_ids=[*(token for piece in segments(answer) for token in encode(piece)), END],
        messages=messages,
        message=answer,
        tools=tools,
    )


def breaks_of(*calls: LLMCall) -> list[PrefixBreak]:
    merged = merge_calls(calls)
    assert merged.counters.broken_prefixes == len(merged.breaks) == merged.counters.broken_by_kind.total()
    return merged.breaks


def the_break(first: LLMCall, second: LLMCall) -> PrefixBreak:
    (broken,) = breaks_of(first, second)
    assert (broken.call, broken.previous, broken.row) == (second, first, 0)
    tokens = [*first.prompt_token_ids, *first.response_token_ids]
    assert tokens[: broken.position] == second.prompt_token_ids[: broken.position]
    assert tokens[broken.position] != second.prompt_token_ids[broken.position]
    assert broken.in_answer == (broken.position >= len(first.prompt_token_ids))
    return broken


FIRST = make_call([SYSTEM, HI], HELLO)


def test_a_history_that_is_given_back_breaks_nothing() -> None:
    assert breaks_of(FIRST, make_call([SYSTEM, HI, HELLO, MORE], HELLO)) == []


def test_the_same_text_with_other_tokens_is_retokenised() -> None:
    messages = [SYSTEM, HI, HELLO, MORE]
    broken = the_break(FIRST, make_call(messages, HELLO, render_prompt(messages, None, retokenise=True)))
    assert (broken.kind, broken.in_answer, broken.message) == (BreakKind.RETOKENISATION, True, None)
    assert (broken.expected, broken.found) == ("", "")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_thinking_that_the_template_drops_is_the_templates_doing(key: str) -> None:
    thought = make_call([SYSTEM, HI], HELLO)
    thought = dataclasses.replace(
        thought,
        message=HELLO | {key: "hm"},
        response_token_ids=[*encode("<think>hm</think>"), *thought.response_token_ids],
    )
    broken = the_break(thought, make_call([SYSTEM, HI, HELLO, MORE], HELLO))
    assert (broken.kind, broken.in_answer) == (BreakKind.TEMPLATE, True)


def test_tokens_that_differ_before_any_answer_are_the_templates_doing() -> None:
    # The template opens the answer with a mark that it leaves out of turns that lie behind.
    first = make_call([SYSTEM, HI], HELLO, [*render_prompt([SYSTEM, HI], None), *encode("<think>")])
    broken = the_break(first, make_call([SYSTEM, HI, HELLO, MORE], HELLO))
    assert (broken.kind, broken.in_answer) == (BreakKind.TEMPLATE, False)


def test_arguments_that_are_written_anew_are_a_matter_of_tool_calls() -> None:
    first = make_call([SYSTEM, HI], calling('{"city":"Oslo"}'), tools=[TOOL])
    second = make_call([SYSTEM, HI, calling('{"city": "Oslo"}'), RESULT], HELLO, tools=[TOOL])
    broken = the_break(first, second)
    assert (broken.kind, broken.message) == (BreakKind.TOOL_SERIALISATION, 2)
    assert '{"city":"Oslo"}' in broken.expected
    assert '{"city": "Oslo"}' in broken.found


@pytest.mark.parametrize(
    ("answer", "history", "message"),
    [
        (HELLO, [SYSTEM, HI, HELLO | {"content": "Hello."}], 2),
        (HELLO, [SYSTEM, HI, HELLO | {"content": "Hello there. "}], 2),
        (HELLO, [SYSTEM | {"content": "Be short."}, HI, HELLO], 0),
        (HELLO, [HI, HELLO], 0),
        (calling('{"city":"Oslo"}'), [SYSTEM, HI, calling('{"city":"Rome"}')], 2),
        (calling('{"city":"Oslo"}', "I look."), [SYSTEM, HI, calling('{"city":"Oslo"}')], 2),
    ],
    ids=["shortened", "space", "instructions", "truncated", "arguments", "content_dropped"],
)
def test_messages_that_were_changed_are_an_edit(answer: Json, history: list[Json], message: int) -> None:
    first = make_call([SYSTEM, HI], answer)
    broken = the_break(first, make_call([*history, MORE], HELLO))
    assert (broken.kind, broken.message) == (BreakKind.HISTORY_EDIT, message)
    assert broken.expected != broken.found


def test_other_tools_are_an_edit() -> None:
    broken = the_break(FIRST, make_call([SYSTEM, HI, HELLO, MORE], HELLO, tools=[TOOL]))
    assert (broken.kind, broken.message) == (BreakKind.HISTORY_EDIT, None)
    assert "weather" in broken.found


def test_without_messages_nobody_knows() -> None:
    first, second = FIRST, make_call([SYSTEM, HI, HELLO, MORE], HELLO, [*FIRST.prompt_token_ids, 0, 1])
    for pair in [(dataclasses.replace(first, messages=[]), second), (first, dataclasses.replace(second, messages=[]))]:
        assert the_break(*pair).kind == BreakKind.UNKNOWN


def test_the_texts_are_cut_to_what_stands_around_the_difference() -> None:
    long = HELLO | {"content": "a" * 500 + "b" * 500}
    edited = HELLO | {"content": "a" * 500 + "c" * 500}
    broken = the_break(make_call([SYSTEM, HI], long), make_call([SYSTEM, HI, edited, MORE], HELLO))
    assert (broken.expected, broken.found) == ("a" * 20 + "b" * 60, "a" * 20 + "c" * 60)


@pytest.mark.parametrize(
    "messages",
    [
        [SYSTEM, MORE],
        [SYSTEM, HI],
        [SYSTEM, HI, HELLO | {"content": "An example."}, MORE],
    ],
    ids=["question", "retry", "example"],
)
def test_a_history_that_holds_no_answer_of_a_row_is_a_beginning(messages: list[Json]) -> None:
    later = make_call(messages, HELLO, [7, *render_prompt(messages, None)])
    assert breaks_of(FIRST, later) == []


def test_going_on_from_an_earlier_turn_is_a_branch() -> None:
    turns = [FIRST, make_call([SYSTEM, HI, HELLO, MORE], HELLO)]
    branch = make_call([SYSTEM, HI, HELLO, HI], HELLO)
    assert breaks_of(*turns, branch) == []


def test_another_agent_that_is_given_the_conversation_breaks_nothing() -> None:
    other = make_call([SYSTEM | {"content": "You help."}, HI, HELLO, MORE], HELLO, tools=[TOOL])
    assert breaks_of(FIRST, other) == []


def test_the_break_names_the_turn_that_was_changed() -> None:
    second = make_call([SYSTEM, HI, HELLO, MORE], HELLO)
    edited = HELLO | {"content": "Hello you."}
    third = make_call([SYSTEM, HI, edited, MORE, HELLO, HI], HELLO)
    (broken,) = breaks_of(FIRST, second, third)
    assert (broken.previous, broken.message, broken.kind) == (FIRST, 2, BreakKind.HISTORY_EDIT)


def test_arguments_that_no_parser_takes_are_an_edit() -> None:
    deep = calling("[" * 100_000)
    first = make_call([HI], deep)
    second = make_call([HI, calling("[" * 100_000 + " "), RESULT], HELLO)
    assert the_break(first, second).kind is BreakKind.HISTORY_EDIT


def test_an_answer_with_other_tokens_is_retokenised_though_the_tools_changed_too() -> None:
    first = make_call([HI], HELLO, [1, 2])
    second = make_call([HI, HELLO, MORE], HELLO, [1, 2, 0, 0, 3], [TOOL])
    assert the_break(first, second).kind is BreakKind.RETOKENISATION
