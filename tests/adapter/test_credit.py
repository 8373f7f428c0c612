"""Credit: no reward is lost, none is given twice, and each goes where the rules say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning.adapter import TracerTraceToTriplet, TraceTree
from agentlightning.adapter.credit import assign_in_places
from agentlightning.adapter.rewards import Credit, RewardMatchPolicy, Unmatched
from agentlightning.adapter.tree import select_from_spans
from agentlightning.types import Span
from tests.adapter.spans import make_agent, make_call, make_reward, make_span

FIRST, SIBLING, BACK_FILL, FINAL = RewardMatchPolicy


def assign(spans: list[Span], policy: RewardMatchPolicy = FIRST) -> tuple[dict[str, tuple[float, str]], Credit]:
    """Return value and rule by the span of the call, and the whole credit."""
    places, calls = select_from_spans(spans)
    credit = assign_in_places(places, calls, policy)
    given = {calls[i].first.span_id: (got.reward.value, got.rule.value) for i, got in credit.given.items()}
    return given, credit


def values(spans: list[Span], policy: RewardMatchPolicy = FIRST) -> tuple[dict[str, float], list[float]]:
    given, credit = assign(spans, policy)
    return {call: value for call, (value, _) in given.items()}, [each.reward.value for each in credit.unmatched]


def reasons(spans: list[Span], policy: RewardMatchPolicy = FIRST) -> list[Unmatched]:
    return [each.reason for each in assign(spans, policy)[1].unmatched]


# -- laws --------------------------------------------------------------------------------------------------------------


@st.composite
def any_rollout(draw: st.DrawFn) -> list[Span]:
    """Agents, tools, calls, failed calls and rewards, with or without links, below each other in any way."""
    spans: list[Span] = []
    for number in range(draw(st.integers(1, 14))):
        parent = draw(st.sampled_from([None, "gone", *(each.span_id for each in spans)]))
        attempt = draw(st.sampled_from("aab"))
        kind = draw(st.sampled_from(["call", "call", "reward", "reward", "failed", "agent", "tool"]))
        sequence = draw(st.integers(0, 8))
        options: dict[str, Any] = {"parent": parent, "attempt": attempt, "time": (float(number), number + 1.5)}
        if spans and draw(st.integers(0, 9)) == 0:
            spans.append(draw(st.sampled_from(spans)).model_copy())
        elif kind == "reward":
            keys = st.sampled_from(["span_id", "gen_ai.response.id"])
            targets = st.sampled_from(["nobody", *(each.span_id for each in spans)])
            links = draw(st.dictionaries(keys, targets, max_size=1))
            if "gen_ai.response.id" in links:
                links["gen_ai.response.id"] = f"resp-{links['gen_ai.response.id']}"
            value = draw(st.sampled_from([0.0, 0.5, float(number)]))
            spans.append(make_reward(value, sequence, links=links, id=f"s{number}", **options))
        elif kind in ("call", "failed"):
            answers = draw(st.integers(1, 2))
            error = "HTTP 500" if kind == "failed" else None
            spans.append(make_call(f"s{number}", sequence, answers=answers, error=error, **options))
        else:
            make = make_agent if kind == "agent" else make_span
            spans.append(make(f"s{number}", sequence, **options))
    return spans


@settings(deadline=None)
@given(any_rollout(), st.sampled_from(RewardMatchPolicy))
def test_every_reward_is_given_once_or_reported(spans: list[Span], policy: RewardMatchPolicy) -> None:
    _, credit = assign(spans, policy)
    recorded = Counter({span.span_id for span in spans if "agentlightning.reward.0.value" in span.attributes})
    given = Counter(each.reward.span.span_id for each in credit.given.values())
    unmatched = Counter(each.reward.span.span_id for each in credit.unmatched)
    assert given + unmatched == recorded


@settings(deadline=None)
@given(any_rollout(), st.sampled_from(RewardMatchPolicy))
def test_only_answered_calls_of_the_same_attempt_get_a_reward(spans: list[Span], policy: RewardMatchPolicy) -> None:
    by_id = {span.span_id: span for span in spans}
    places, calls = select_from_spans(spans)
    for index, got in assign_in_places(places, calls, policy).given.items():
        span = by_id[calls[index].first.span_id]
        assert span.status.status_code == "OK"
        assert span.attempt_id == got.reward.span.attempt_id


@settings(deadline=None)
@given(any_rollout(), st.sampled_from(RewardMatchPolicy), st.randoms(use_true_random=False))
def test_the_order_in_which_spans_arrive_changes_nothing(
    spans: list[Span], policy: RewardMatchPolicy, random: Any
) -> None:
    shuffled = list(spans)
    random.shuffle(shuffled)
    first, second = assign(spans, policy)[0], assign(shuffled, policy)[0]
    assert repr(sorted(first.items())) == repr(sorted(second.items()))


@settings(deadline=None)
@given(any_rollout(), st.sampled_from(RewardMatchPolicy))
def test_reading_a_trace_twice_changes_nothing(spans: list[Span], policy: RewardMatchPolicy) -> None:
    again = [*spans, *(span.model_copy() for span in spans)]
    assert assign(again, policy)[0] == assign(spans, policy)[0]
    assert reasons(again, policy) == reasons(spans, policy)


@settings(deadline=None)
@given(any_rollout())
def test_without_links_a_reward_goes_to_an_earlier_call(spans: list[Span]) -> None:
    places, calls = select_from_spans(spans)
    position = {span.span_id: (span.sequence_id, span.start_time) for span in spans}
    for policy in RewardMatchPolicy:
        for index, got in assign_in_places(places, calls, policy).given.items():
            if got.rule != "link":
                assert position[calls[index].first.span_id] <= position[got.reward.span.span_id]


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", RewardMatchPolicy)
@pytest.mark.parametrize(
    "links",
    [
        {"span_id": "a"},
        {"trace_id": "t", "span_id": "a"},
        {"gen_ai.response.id": "resp-a"},
        {"response_id": "resp-a"},
        {"step": "one"},
        {"response_id": "resp-a", "step": "one"},
    ],
    ids=["span", "trace-and-span", "response", "response-short", "attribute", "both"],
)
def test_a_link_decides(policy: RewardMatchPolicy, links: dict[str, str]) -> None:
    first = make_call("a", 1)
    first.attributes["step"] = "one"
    given, credit = assign([first, make_call("b", 2), make_call("c", 3), make_reward(0.5, 4, links=links)], policy)
    assert given == {"a": (0.5, "link")}
    assert credit.unmatched == []


def test_a_link_to_an_operation_means_the_last_call_inside() -> None:
    spans = [make_span("op", 1), make_call("a", 2, "op"), make_call("b", 3, "op"), make_call("c", 4)]
    assert assign([*spans, make_reward(0.5, 5, links={"span_id": "op"})])[0] == {"b": (0.5, "link")}


@pytest.mark.parametrize(
    "links",
    [{"span_id": "nobody"}, {"span_id": "tool"}, {"response_id": "resp-failed"}, {"span_id": "a", "step": "two"}],
    ids=["absent", "no-call-below", "failed", "half"],
)
def test_a_reward_whose_link_leads_to_no_call_is_given_to_no_other(links: dict[str, str]) -> None:
    spans = [make_call("a", 1), make_call("failed", 2, error="HTTP 500"), make_span("tool", 3)]
    spans.append(make_reward(0.5, 4, links=links))
    assert values(spans) == ({}, [0.5])
    assert reasons(spans) == [Unmatched.NO_LINKED_CALL]


def test_a_link_to_spans_in_each_other_finds_each_call_once() -> None:
    spans = [make_span("out", 1), make_span("in", 2, "out"), make_call("a", 3, "in"), make_call("b", 4, "out")]
    rewards = [make_reward(value, 5 + value, links={"trace_id": "t"}) for value in (0, 1)]
    assert values([*spans, *rewards]) == ({"b": 0}, [1])


def test_a_linked_call_is_no_longer_free_and_takes_one_reward() -> None:
    spans = [make_call("a", 1), make_call("b", 2), make_reward(0.25, 3), make_reward(0.5, 4, links={"span_id": "b"})]
    spans.append(make_reward(1.0, 5, links={"span_id": "b"}))
    assert values(spans) == ({"a": 0.25, "b": 0.5}, [1.0])
    assert reasons(spans) == [Unmatched.TAKEN]


# -- a call's own span -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", RewardMatchPolicy)
def test_a_reward_in_a_calls_own_span_is_that_calls(policy: RewardMatchPolicy) -> None:
    judged = make_call("b", 2)
    judged.attributes |= make_reward(0.5, 2).attributes
    spans = [make_call("a", 1), judged]
    assert assign(spans, policy) == ({"b": (0.5, "own")}, assign(spans, policy)[1])
    assert reasons(spans, policy) == []
    linked = make_reward(1.0, 3, links={"span_id": "b"})
    if policy is not FINAL:
        assert values([*spans, linked], policy) == ({"b": 0.5}, [1.0])


def test_a_reward_in_the_call_of_an_agent_that_is_not_trained_is_given_to_no_other() -> None:
    judged = make_call("b", 3, "editor")
    judged.attributes |= make_reward(0.5, 3).attributes
    spans = [make_agent("author"), make_call("a", 1, "author"), make_agent("editor", 2), judged]
    reading = TracerTraceToTriplet(agent_match="author").read(spans)
    assert [triplet.reward for triplet in reading.triplets] == [None]
    assert [each.reason for each in reading.unmatched] == [Unmatched.NOT_TRAINED]


# -- place and order ---------------------------------------------------------------------------------------------------


def test_rewards_after_their_calls_keep_their_order() -> None:
    spans = [make_call("a", 1), make_call("b", 2), make_reward(0.25, 3), make_reward(0.5, 4)]
    assert assign(spans)[0] == {"a": (0.25, "sequence"), "b": (0.5, "sequence")}
    assert values(spans, BACK_FILL)[0] == {"a": 0.5, "b": 0.25}


def test_one_reward_after_several_calls_is_the_last_calls() -> None:
    spans = [make_call("a", 1), make_call("b", 2), make_reward(0.5, 3), make_call("c", 4), make_reward(1.0, 5)]
    assert values(spans) == ({"b": 0.5, "c": 1.0}, [])


def test_rewards_for_which_no_call_is_left_are_reported() -> None:
    spans = [make_reward(0.1, 0), make_call("a", 1), make_call("b", 2), make_reward(0.25, 3)]
    spans += [make_call("c", 4), make_reward(0.5, 5), make_reward(0.75, 6)]
    assert values(spans) == ({"b": 0.25, "c": 0.5}, [0.1, 0.75])
    assert reasons(spans) == [Unmatched.NO_CALL_BEFORE, Unmatched.TAKEN]


def test_a_reward_inside_an_operation_belongs_to_the_calls_inside() -> None:
    spans = [make_agent("one"), make_call("a", 1, "one"), make_agent("two", 2), make_call("b", 3, "two")]
    spans += [make_reward(0.5, 4, "one"), make_span("tool", 5, "two"), make_reward(1.0, 6, "tool")]
    given, credit = assign(spans)
    assert given == {"a": (0.5, "subtree"), "b": (1.0, "subtree")}
    assert credit.unmatched == []


def test_a_reward_of_an_agent_that_is_not_trained_is_given_to_no_other() -> None:
    spans = [make_agent("author"), make_call("a", 1, "author"), make_agent("editor", 2), make_call("b", 3, "editor")]
    spans += [make_reward(0.5, 4, "editor"), make_reward(1.0, 5)]
    reading = TracerTraceToTriplet(agent_match="author").read(spans)
    assert [triplet.reward for triplet in reading.triplets] == [1.0]
    assert [(each.reward.value, each.reason) for each in reading.unmatched] == [(0.5, Unmatched.NOT_TRAINED)]
    assert [triplet.reward for triplet in TracerTraceToTriplet()(spans)] == [1.0, 0.5]
    assert [t.reward for t in TraceTree.from_spans(spans).to_trajectory(agent_match="author")] == [1.0]


def test_inner_rewards_are_given_before_those_around_them() -> None:
    spans = [make_call("a", 1), make_agent("op", 2), make_call("b", 3, "op"), make_reward(1.0, 4)]
    spans.append(make_reward(0.5, 5, "op"))
    assert values(spans) == ({"a": 1.0, "b": 0.5}, [])


def test_a_reward_for_what_came_before_its_operation_finds_it() -> None:
    spans = [make_call("a", 1), make_agent("op", 2), make_reward(0.5, 3, "op"), make_call("b", 4, "op")]
    assert assign(spans)[0] == {"a": (0.5, "sequence")}


def test_parallel_calls_get_their_rewards_though_they_overlap() -> None:
    spans = [make_agent(name, time=(0, 9)) for name in ("one", "two")]
    spans += [make_call("a", 1, "one", time=(1, 8)), make_call("b", 2, "two", time=(1, 9))]
    spans += [make_reward(0.25, 3, "one", time=(3, 3)), make_reward(0.5, 4, "two", time=(2, 2))]
    assert values(spans) == ({"a": 0.25, "b": 0.5}, [])


def test_siblings_share_a_parent() -> None:
    spans = [make_agent("one"), make_call("a", 1, "one"), make_call("b", 2), make_reward(0.5, 3, "one")]
    spans += [make_span("tool", 4, "one"), make_reward(1.0, 5, "tool")]
    assert assign(spans, SIBLING)[0] == {"a": (0.5, "sibling")}
    assert reasons(spans, SIBLING) == [Unmatched.NO_CALL_BEFORE]


def test_back_filling_takes_only_calls_of_a_smaller_sequence_id() -> None:
    spans = [make_call("a", 1), make_call("b", 3, time=(0, 1)), make_reward(0.5, 3, time=(9, 9))]
    spans += [make_reward(0.1, 1, time=(9, 9)), make_reward(1.0, 4), make_reward(0.2, 5)]
    assert values(spans, BACK_FILL) == ({"a": 0.5, "b": 1.0}, [0.1, 0.2])
    assert reasons(spans, BACK_FILL) == [Unmatched.NO_CALL_BEFORE, Unmatched.TAKEN]


def test_only_the_final_reward_counts_if_asked() -> None:
    spans = [make_call("a", 1), make_reward(0.5, 2), make_call("b", 3), make_reward(1.0, 4), make_call("c", 5)]
    assert assign(spans, FINAL)[0] == {"b": (1.0, "final")}
    assert reasons(spans, FINAL) == [Unmatched.NOT_FINAL]


def test_calls_that_compute_a_reward_get_none() -> None:
    judging = make_span(
        "agentlightning.operation", 2, attributes={"agentlightning.operation.name": "agentlightning.reward"}, id="judge"
    )
    spans = [make_call("a", 1), judging, make_call("verdict", 3, "judge"), make_reward(0.5, 4, "judge")]
    assert values(spans) == ({"a": 0.5}, [])


@pytest.mark.parametrize("make", [make_agent, make_span, make_call])
def test_a_reward_among_the_attributes_of_some_work_leaves_the_calls_inside(make: Any) -> None:
    work = make("work", 1)
    work.attributes |= make_reward(0.5, 1).attributes
    assert "a" in [call.first.span_id for call in select_from_spans([work, make_call("a", 2, "work")])[1]]


def test_of_two_dimensions_of_one_name_the_first_counts() -> None:
    reward = make_reward({"x": 1.0, "y": 0.5}, 2)
    reward.attributes["agentlightning.reward.1.name"] = "x"
    given = assign([make_call("a", 1), reward])[1].given[0].reward
    assert (given.value, given.dimensions) == (1.0, {"x": 1.0})


def test_rewards_that_no_call_gets_are_reported_in_order() -> None:
    spans = [make_reward(0.1, 0), make_call("a", 1), make_reward(0.5, 2, links={"span_id": "nobody"})]
    assert values(spans) == ({}, [0.1, 0.5])


def test_all_dimensions_are_kept() -> None:
    _, credit = assign([make_call("a", 1), make_reward({"correct": 1.0, "short": 0.25}, 2)])
    assert credit.given[0].reward.dimensions == {"correct": 1.0, "short": 0.25}
    assert credit.given[0].reward.value == 1.0
