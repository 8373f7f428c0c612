"""Token truth: every sampled token is trained on once, behind the context it was sampled in."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections import Counter
from itertools import takewhile

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning.adapter import merge_calls
from agentlightning.types import LLMCall, TrainingRow

# Few different tokens, so that prefixes meet by chance too.
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=4)


def make_call(prompt: list[int], response: list[int], number: int = 0, attempt_id: str = "a") -> LLMCall:
    """A call whose log-probs, temperature and version name it, so that a token can be traced to its call."""
    return LLMCall(
        rollout_id="r",
        attempt_id=attempt_id,
        sequence_id=number,
        start_time=0.0,
        end_time=0.0,
        prompt_token_ids=prompt,
        response_token_ids=response,
        response_logprobs=[-(number + 1 + position / 10) for position in range(len(response))],
        temperature=0.5 + number,
        weights_version=number,
    )


@st.composite
def call_sequences(draw: st.DrawFn) -> list[LLMCall]:
    """Calls of agents that go on, start anew, branch, retry, re-render their history and take turns."""
    calls: list[LLMCall] = []
    for number in range(draw(st.integers(1, 8))):
        response, attempt = draw(tokens), draw(st.sampled_from("ab"))
        if not calls or (kind := draw(st.sampled_from(["go on", "new", "retry", "break"]))) == "new":
            prompt = draw(tokens)
        else:
            parent = draw(st.sampled_from(calls))
            history = parent.prompt_token_ids + parent.response_token_ids
            attempt = parent.attempt_id
            if kind == "break":
                history = [*history[:-1], history[-1] + 1]
            prompt = parent.prompt_token_ids if kind == "retry" else history + draw(tokens)
        calls.append(make_call(prompt, response, number, attempt))
    return calls


def sampled_in_calls(calls: list[LLMCall]) -> Counter[tuple[object, ...]]:
    return Counter(
        (
            call.attempt_id,
            tuple(call.prompt_token_ids + call.response_token_ids[:position]),
            token,
            call.response_logprobs[position] if call.response_logprobs else None,
            call.temperature,
            call.weights_version,
        )
        for call in calls
        for position, token in enumerate(call.response_token_ids)
    )


def sampled_in_rows(rows: list[TrainingRow]) -> Counter[tuple[object, ...]]:
    return Counter(
        (
            row.attempt_id,
            tuple(row.token_ids[:i]),
            row.token_ids[i],
            row.logprobs[i],
            row.temperatures[i],
            row.weights_versions[i],
        )
        for row in rows
        for i, masked in enumerate(row.mask)
        if masked
    )


@settings(deadline=None)
@given(call_sequences())
def test_rows_hold_each_sampled_token_once_with_its_real_context(calls: list[LLMCall]) -> None:
    rows = merge_calls(calls).rows
    assert sampled_in_rows(rows) == sampled_in_calls(calls)


@settings(deadline=None)
@given(call_sequences())
def test_outside_the_mask_nothing_is_claimed(calls: list[LLMCall]) -> None:
    for row in merge_calls(calls).rows:
        assert len({len(getattr(row, name)) for name in ("token_ids", "mask", "logprobs", "temperatures")}) == 1
        assert len(row.weights_versions) == len(row.token_ids)
        context = [i for i, masked in enumerate(row.mask) if not masked]
        assert {(row.logprobs[i], row.temperatures[i], row.weights_versions[i]) for i in context} <= {(0.0, 1.0, -1)}


@settings(deadline=None)
@given(call_sequences(), st.sampled_from([-1, 1]))
def test_the_law_notices_a_mask_that_is_shifted_by_one(calls: list[LLMCall], shift: int) -> None:
    rows = merge_calls(calls).rows
    shifted = [dataclasses.replace(row, mask=row.mask[-shift:] + row.mask[:-shift]) for row in rows]
    assert sampled_in_rows(shifted) != sampled_in_calls(calls)


@settings(deadline=None)
@given(call_sequences())
def test_counters_account_for_every_call(calls: list[LLMCall]) -> None:
    rows, counters = (merged := merge_calls(calls)).rows, merged.counters
    assert counters.calls == len(calls) == counters.merged + counters.rows + counters.calls_without_tokens
    assert counters.rows == len(rows)
    assert counters.broken_prefixes <= counters.rows


def common_length(left: list[int], right: list[int]) -> int:
    return sum(takewhile(bool, map(operator.eq, left, right)))


@settings(deadline=None)
@given(call_sequences())
def test_broken_prefixes_are_those_that_leave_the_longest_followed_row_in_an_answer(calls: list[LLMCall]) -> None:
    expected = 0
    for number, call in enumerate(calls):
        before, after = merge_calls(calls[:number]), merge_calls(calls[: number + 1])
        rows = [row for row in before.rows if row.attempt_id == call.attempt_id]
        common = [common_length(call.prompt_token_ids, row.token_ids) for row in rows]
        left_at = {row.mask[n] for row, n in zip(rows, common, strict=True) if n == max(common) and n < len(row.mask)}
        opened = after.counters.rows > before.counters.rows
        expected += opened and True in left_at and max(common) < len(call.prompt_token_ids)
    assert merge_calls(calls).counters.broken_prefixes == expected


@settings(deadline=None)
@given(st.lists(tokens, min_size=2, max_size=5), st.lists(tokens, min_size=2, max_size=5))
def test_two_agents_that_take_turns_make_two_rows(first: list[list[int]], second: list[list[int]]) -> None:
    histories = {10: [10], 20: [20]}
    calls: list[LLMCall] = []
    turns = [(10, t) for t in first] + [(20, t) for t in second]
    for number, (agent, response) in enumerate(sorted(turns, key=lambda turn: len(turn[1]))):
        calls.append(make_call(list(histories[agent]), response, number))
        histories[agent] += [*response, agent]
    merged = merge_calls(calls)
    assert sorted([*row.token_ids, row.token_ids[0]] for row in merged.rows) == sorted(histories.values())
    assert merged.counters.broken_prefixes == 0


def test_the_choices_of_one_request_are_branches_and_each_can_go_on() -> None:
    one, two = make_call([1, 2], [3], 0), make_call([1, 2], [4], 1)
    follow = [make_call([1, 2, 4, 5], [6], 2), make_call([1, 2, 3, 5], [7], 3)]
    merged = merge_calls([one, two, *follow])
    assert [row.token_ids for row in merged.rows] == [[1, 2, 3, 5, 7], [1, 2, 4, 5, 6]]
    assert [row.mask for row in merged.rows] == [[False, False, True, False, True]] * 2
    assert merged.counters.broken_prefixes == 0


@pytest.mark.parametrize(
    ("prompt", "broken"),
    [
        ([1, 2, 3, 9, 5], 1),  # another token where one was sampled
        ([1, 2], 0),  # the same request again
        ([1, 2, 3], 0),  # asks to go on in the middle of the answer
        ([1, 9], 0),  # another question after a shared beginning
        ([7], 0),
    ],
)
def test_only_a_changed_answer_counts_as_a_broken_prefix(prompt: list[int], broken: int) -> None:
    merged = merge_calls([make_call([1, 2], [3, 4], 0), make_call(prompt, [6], 1)])
    assert merged.counters.broken_prefixes == broken
    assert merged.counters.rows == 2


def test_going_on_from_an_earlier_turn_is_a_branch_and_not_a_break() -> None:
    turns = [make_call([1], [2], 0), make_call([1, 2, 3], [4], 1), make_call([1, 2, 5], [6], 2)]
    merged = merge_calls(turns)
    assert [row.token_ids for row in merged.rows] == [[1, 2, 3, 4], [1, 2, 5, 6]]
    assert merged.rows[1].mask == [False, False, False, True]  # the shared answer is trained on in the first row
    assert merged.counters.broken_prefixes == 0


def test_attempts_do_not_extend_each_other() -> None:
    merged = merge_calls([make_call([1], [2], 0, "a"), make_call([1, 2, 3], [4], 1, "b")])
    assert [(row.attempt_id, row.token_ids) for row in merged.rows] == [("a", [1, 2]), ("b", [1, 2, 3, 4])]


def test_calls_without_tokens_are_counted_and_left_out() -> None:
    merged = merge_calls([make_call([], [1]), make_call([1], [])])
    assert (merged.rows, merged.counters.calls_without_tokens) == ([], 2)


def test_unknown_log_probabilities_are_not_numbers() -> None:
    (row,) = merge_calls([dataclasses.replace(make_call([1], [2]), response_logprobs=None)]).rows
    assert row.logprobs[0] == 0.0
    assert math.isnan(row.logprobs[1])
