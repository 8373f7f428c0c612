"""The tree of a trace: every span stands in it once, where its ids say, and calls find their agents."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning.adapter import agent_labels
from agentlightning.adapter.agents import agent_name
from agentlightning.adapter.forest import link_spans
from agentlightning.adapter.triplet import RewardMatchPolicy, TracerTraceToTriplet, TraceTree
from agentlightning.types import Attributes, Span, Triplet
from tests.adapter.spans import make_agent, make_call, make_reward, make_span


def names(tree: TraceTree) -> list[str]:
    return [node.id for node in tree.traverse()]


# -- structure ---------------------------------------------------------------------------------------------------------


@st.composite
def any_spans(draw: st.DrawFn) -> list[Span]:
    """Spans whose parents are anything: others, absent ones, themselves; ids may stand twice."""
    ids = st.sampled_from("abcdefgh")
    parents = st.none() | ids
    count = draw(st.integers(1, 10))
    return [
        make_span(f"s{n}", draw(st.integers(0, 3)), draw(parents), id=draw(ids), time=(float(n), n + 1.0))
        for n in range(count)
    ]


@settings(deadline=None)
@given(any_spans(), st.randoms(use_true_random=False))
def test_every_span_stands_in_the_tree_once_whatever_the_ids_and_the_order(spans: list[Span], random: Any) -> None:
    tree = TraceTree.from_spans(spans)
    assert sorted(node.span.name for node in tree.traverse() if not node.virtual) == sorted(s.name for s in spans)
    shuffled = list(spans)
    random.shuffle(shuffled)
    assert TraceTree.from_spans(shuffled).names_tuple() == tree.names_tuple()


@settings(deadline=None)
@given(any_spans())
def test_children_stand_below_the_parent_they_name_unless_that_was_reported(spans: list[Span]) -> None:
    forest = link_spans(spans)
    for span, parent in zip(forest.spans, forest.parents, strict=True):
        known = span.parent_id in {each.span_id for each in spans}
        if parent is not None:
            assert forest.spans[parent].span_id == span.parent_id
        else:
            assert not known or span.span_id in forest.cut
    ids = [span.span_id for span in spans]
    assert set(forest.duplicates) == {each for each in ids if ids.count(each) > 1}


def test_children_are_ordered_by_sequence_and_then_by_start() -> None:
    spans = [make_span("c", 2, "r"), make_span("b", 1, "r", time=(5, 6)), make_span("a", 1, "r", time=(4, 6))]
    assert names(TraceTree.from_spans([*spans, make_span("r", 0)])) == ["r", "a", "b", "c"]


def test_several_roots_and_absent_parents_get_a_node_as_long_as_what_is_below() -> None:
    tree = TraceTree.from_spans(
        [make_span("x", 1, "gone", time=(4, 9)), make_span("y", 2, "gone", time=(2, 3)), make_span("z", 3, time=(0, 1))]
    )
    assert (tree.id, tree.span.name, tree.virtual) == ("virtual-root", "virtual-root", True)
    assert (tree.start_time, tree.end_time) == (0, 9)
    gone = tree.find_id("gone")
    assert gone is not None
    assert (gone.span.name, gone.span.sequence_id, gone.start_time, gone.end_time) == (
        "agentlightning.virtual", 1, 2, 9,
    )  # fmt: skip
    assert tree.names_tuple() == (
        "virtual-root",
        [("agentlightning.virtual", [("x", []), ("y", [])]), ("z", [])],
    )


def test_without_spans_there_is_no_tree() -> None:
    with pytest.raises(ValueError, match="at least one span"):
        TraceTree.from_spans([])


def test_a_ring_of_parents_and_ids_that_stand_twice_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tree = TraceTree.from_spans(
            [make_span("a", 1, "b"), make_span("b", 2, "a"), make_span("c", 3), make_span("c2", 4, id="c")]
        )
    assert sorted(names(tree)) == ["a", "b", "c", "c", "virtual-root"]
    assert "1 span ids stand twice" in caplog.text
    assert "1 spans stand below themselves, such as a" in caplog.text


def test_a_tree_may_be_five_thousand_spans_deep() -> None:
    depth = 5_000
    spans = [make_span(f"s{n}", n, f"s{n - 1}" if n else None) for n in range(depth)]
    spans += [make_call("call", depth, f"s{depth - 1}"), make_reward(1.0, depth + 1, f"s{depth - 1}")]
    tree = TraceTree.from_spans(spans)
    tree.repair_hierarchy()
    assert len(tree.traverse()) == depth + 2
    assert tree.find_id("call") is not None
    node: Any = tree.to_json()
    for _ in range(depth):
        node = node["children"][0]
    assert node["id"] == "call"
    tuples = tree.names_tuple()
    while tuples[1]:
        tuples = tuples[1][0]
    assert tuples[0] == "call"
    assert [triplet.reward for triplet in TracerTraceToTriplet()(spans)] == [1.0]


def test_plain_data_holds_the_whole_tree() -> None:
    tree = TraceTree.from_spans([make_span("a", 0), make_call("b", 1, "a")])
    data = json.loads(json.dumps(tree.to_json()))
    assert data["id"] == "a"
    assert Span.model_validate(data["children"][0]["span"]) == tree.children[0].span


# -- agents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span_name", "attributes", "expected"),
    [
        ("x", {"agent.name": "a", "graph.node.id": "b"}, "a"),
        ("x", {"agentops.span.kind": "agent", "operation.name": "a"}, "a"),
        ("x", {"agentops.span.kind": "task", "operation.name": "a"}, None),
        ("x", {"recipient_agent_type": "a"}, "a"),
        ("x", {"langchain.chain.type": "a"}, "a"),
        ("x", {"executor.id": "a"}, "a"),
        ("x", {"gen_ai.agent.name": "a"}, "a"),
        ("x", {"type": "agent", "agentlightning.operation.input.name": "a"}, "a"),
        ("agentlightning.operation", {"type": "agent", "agentlightning.operation.name": "a"}, "a"),
        ("agentlightning.operation", {"agentlightning.operation.name": "a"}, None),
        ("langchain.Chain.run", {"lc_name": "a"}, "a"),
        ("run", {"lc_name": "a"}, None),
        ("a", {"openinference.span.kind": "AGENT"}, "a"),
        ("a", {"openinference.span.kind": "CHAIN"}, None),
        ("x", {"metadata": '{"langgraph_node": "a", "langgraph_checkpoint_ns": "a:1"}'}, "a"),
        ("x", {"metadata": '{"langgraph_node": "b", "langgraph_checkpoint_ns": "a:1-2|b:3"}'}, "a/b"),
        ("x", {"metadata": '{"langgraph_node": "b", "lc_agent_name": "a"}'}, "a"),
        ("x", {"metadata": '{"langgraph_node": '}, None),
        ("x", {"metadata": '["langgraph_node"]'}, None),
        ("x", {"metadata": "[" * 100_000 + "langgraph_node"}, None),
        ("x", {}, None),
    ],
)
def test_each_library_names_agents_in_its_own_words(
    span_name: str, attributes: Attributes, expected: str | None
) -> None:
    assert agent_name(make_span(span_name, attributes=attributes)) == expected


def test_the_nearest_agent_counts() -> None:
    spans = [make_agent("outer"), make_agent("inner", 1, "outer"), make_span("tool", 2, "inner"), make_span("top", 3)]
    spans += [make_call("deep", 4, "tool"), make_call("shallow", 5, "outer")]
    assert agent_labels(spans) == {
        "outer": "outer", "inner": "inner", "tool": "inner", "deep": "inner", "shallow": "outer",
    }  # fmt: skip
    assert agent_labels([]) == {}
    assert TraceTree.from_spans(spans[:2]).names_tuple() == ("outer [outer]", [("inner [inner]", [])])


def test_a_call_belongs_to_one_agent_whoever_saw_it() -> None:
    sdk = make_call("sdk", 1, "agent")
    gateway = make_call("gateway", 2)
    gateway.attributes["gen_ai.response.id"] = sdk.attributes["gen_ai.response.id"]
    sdk.name, sdk.attributes = (
        "openai.chat.completion",
        {
            "gen_ai.response.id": sdk.attributes["gen_ai.response.id"],
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "hi",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "gateway",
        },
    )
    spans = [make_agent("agent", 0, time=(0, 1)), sdk, gateway]
    assert agent_labels(spans, repair_hierarchy=False)["gateway"] == "agent"
    (triplet,) = TracerTraceToTriplet(repair_hierarchy=False, agent_match="agent")(spans)
    assert triplet.response["token_ids"] == [3]


@pytest.mark.parametrize("parents", [("outer", "inner"), ("inner", "outer")])
def test_of_those_who_saw_a_call_the_deepest_knows_its_agent(parents: tuple[str, str]) -> None:
    spans = [make_agent("outer"), make_agent("inner", 1, "outer")]
    spans += [make_call("gateway", 2, parents[0]), make_span("sdk", 3, parents[1])]
    spans[3].attributes = {
        "openinference.span.kind": "LLM",
        "input.value": "{}",
        "output.value": json.dumps({"id": "resp-gateway", "choices": [{"message": {"content": "gateway"}}]}),
    }
    (triplet,) = TracerTraceToTriplet()(spans)
    assert triplet.metadata["agent_name"] == "inner"


# -- repair ------------------------------------------------------------------------------------------------------------


def parents(tree: TraceTree) -> dict[str, str]:
    return {child.id: node.id for node in tree.traverse() for child in node.children}


def repaired(*spans: Span) -> dict[str, str]:
    tree = TraceTree.from_spans(spans)
    before = sorted(names(tree))
    tree.repair_hierarchy()
    assert sorted(names(tree)) == before
    return parents(tree)


@pytest.mark.parametrize("parent", [None, "session", "gone"])
def test_a_stray_call_is_put_below_the_agent_that_was_at_work(parent: str | None) -> None:
    session = make_span("session", 0, time=(0, 10))
    agent, step = make_agent("agent", 1, "session", time=(1, 9)), make_span("step", 2, "agent", time=(2, 8))
    call = make_call("call", 3, parent, time=(3, 4))
    assert repaired(session, agent, step, call)["call"] == "step"
    assert repaired(session, agent, make_call("call", 3, parent, time=(9.5, 9.9)))["call"] != "agent"
    spans = [session, agent, step, call]
    assert TracerTraceToTriplet(agent_match="agent", repair_hierarchy=False)(spans) == []
    assert len(TracerTraceToTriplet(agent_match="agent")(spans)) == 1


def test_calls_that_are_stray_once_others_are_put_away_are_put_below_their_agent_too() -> None:
    session = make_span("session", 0, "gone", time=(0, 9))
    first, second = make_agent("first", 1, "session", time=(0, 1)), make_agent("second", 2, "session", time=(2, 4))
    early, late = make_call("early", 3, None, time=(0, 1)), make_call("late", 4, "session", time=(3, 4))
    found = repaired(session, first, second, early, late)
    assert (found["early"], found["late"]) == ("first", "second")


@st.composite
def any_agents_and_calls(draw: st.DrawFn) -> list[Span]:
    spans: list[Span] = []
    for number in range(draw(st.integers(1, 10))):
        parent = draw(st.sampled_from([None, "gone", *(each.span_id for each in spans)]))
        make = draw(st.sampled_from([make_agent, make_span, make_call, make_call]))
        start = draw(st.integers(0, 6))
        spans.append(make(f"s{number}", number, parent, time=(float(start), start + draw(st.integers(0, 6)))))
    return spans


@settings(deadline=None)
@given(any_agents_and_calls())
def test_repair_moves_only_calls_and_only_further_down(spans: list[Span]) -> None:
    tree = TraceTree.from_spans(spans)
    before, calls = parents(tree), {span.span_id for span in spans if "gen_ai.response.id" in span.attributes}
    tree.repair_hierarchy()
    after = parents(tree)
    assert sorted(names(tree)) == sorted({*before, tree.id})
    for moved in (id for id in before if before[id] != after[id]):
        assert moved in calls
        assert before[moved] in ("gone", "virtual-root") or before[moved] in ancestors(after, moved)
        assert after[moved] not in calls
    assert parents(repaired_again(tree)) == after


def ancestors(parent_of: dict[str, str], id: str) -> list[str]:
    above: list[str] = []
    while id in parent_of:
        id = parent_of[id]
        above.append(id)
    return above


def test_calls_whose_spans_have_one_id_stand_in_the_tree_once() -> None:
    one, other = (make_call(name, number, id="same") for number, name in ((3, "one"), (4, "other")))
    tree = TraceTree.from_spans([make_span("root"), make_span("host", 1, "root", time=(1, 9)), one, other])
    spans = sorted(id(node.span) for node in tree.traverse())
    tree.repair_hierarchy()
    assert sorted(id(node.span) for node in tree.traverse()) == spans


def repaired_again(tree: TraceTree) -> TraceTree:
    tree.repair_hierarchy()
    return tree


def test_of_agents_at_work_side_by_side_none_is_chosen() -> None:
    root = make_span("root", 0, time=(0, 10))
    first, second = make_agent("first", 1, "root", time=(1, 9)), make_agent("second", 2, "root", time=(2, 8))
    assert repaired(root, first, second, make_call("call", 3, None, time=(3, 4)))["call"] == "root"
    assert repaired(root, first, second, make_call("call", 3, None, time=(8.2, 8.8)))["call"] == "first"


def test_agents_whose_times_nest_stay_where_their_ids_say() -> None:
    tree = repaired(
        make_agent("outer", 1, time=(1, 9)), make_agent("inner", 2, time=(2, 8)), make_call("c", 3, "inner")
    )
    assert tree == {"outer": "virtual-root", "inner": "virtual-root", "c": "inner"}


def test_a_call_never_moves_below_itself_nor_away_from_an_agent() -> None:
    inside = make_span("inside", 3, "call", time=(2, 5))
    call = make_call("call", 2, "root", time=(3, 4))
    assert repaired(make_span("root"), call, inside) == {"call": "root", "inside": "call"}
    spans = [make_agent("a", 0, time=(0, 9)), make_agent("b", 1, time=(1, 9)), make_call("c", 2, "a", time=(2, 3))]
    assert repaired(*spans)["c"] == "a"


def test_a_clock_that_is_ahead_puts_no_call_below_an_agent_that_began_later() -> None:
    author, editor = make_agent("author", 1, "root", time=(10, 11)), make_agent("editor", 4, "root", time=(11, 12))
    root, call = make_span("root", 0, time=(9, 13)), make_call("call", 2, None, time=(11.2, 11.8))
    assert repaired(root, author, editor, call)["call"] != "editor"
    late = make_call("call", 5, None, time=(11.2, 11.8))
    assert repaired(root, author, editor, late)["call"] == "editor"
    assert repaired(root, author, editor, late.model_copy(update={"attempt_id": "b"}))["call"] != "editor"


def test_a_call_that_was_moved_stands_among_its_siblings_in_order() -> None:
    agent, tool = make_agent("agent", 0, time=(0, 9)), make_span("tool", 3, "agent", time=(5, 6))
    tree = TraceTree.from_spans([agent, tool, make_call("call", 1, time=(1, 2)), make_span("other", 9, time=(10, 11))])
    tree.repair_hierarchy()
    assert names(tree) == ["virtual-root", "agent", "call", "tool", "other"]


def test_spans_without_times_are_no_obstacle() -> None:
    root, agent, call = make_span("root"), make_agent("agent", 1, "root"), make_call("call", 2, "root")
    agent.start_time = call.end_time = None
    assert repaired(root, agent, call) == {"agent": "root", "call": "root"}


# -- what programs ask a tree ------------------------------------------------------------------------------------------


def example() -> TraceTree:
    return TraceTree.from_spans(
        [
            make_agent("planner"),
            make_call("plan", 1, "planner"),
            make_call("failed", 2, "planner", error="HTTP 500"),
            make_agent("judge", 3),
            make_reward(0.5, 4, "judge"),
            make_call("verdict", 5, "reward-4"),
            make_call("loose", 6),
        ]
    )


def find(tree: TraceTree, **options: Any) -> list[tuple[str, str]]:
    defaults: dict[str, Any] = {"llm_call_match": None, "agent_match": None, "within_matching_subtree": "*"}
    return [(node.id, agent) for node, agent in tree.find_llm_calls(**defaults | options)]


def test_calls_are_found_by_agent_and_name_and_outside_of_rewards() -> None:
    tree = example()
    assert find(tree) == [("plan", "planner"), ("verdict", "judge"), ("loose", "*")]
    assert find(tree, within_reward=False) == [("plan", "planner"), ("loose", "*")]
    assert find(tree, within_reward=True) == []
    assert find(tree, within_matching_subtree=None) == [("plan", "planner"), ("verdict", "judge")]
    assert find(tree, agent_match="^plan", within_matching_subtree=None) == [("plan", "planner")]
    assert find(tree, llm_call_match="oose|plan") == [("plan", "planner"), ("loose", "*")]
    seen = {"resp-plan"}
    assert find(tree, within_llm_call=False, existing_llm_call_response_ids=seen) == [
        ("verdict", "judge"), ("loose", "*"),
    ]  # fmt: skip
    assert seen == {"resp-plan", "resp-verdict", "resp-loose"}


def test_rewards_are_those_spans_that_carry_or_compute_one() -> None:
    tree = TraceTree.from_spans(
        [
            make_reward(0.5, 1),
            make_span(
                "agentlightning.operation", 2, attributes={"agentlightning.operation.name": "agentlightning.reward"}
            ),
            make_span("agentlightning.operation", 3, id="other"),
        ]
    )
    assert [node.is_reward_span() for node in tree.children] == [True, True, False]
    assert [node.maybe_reward_dict() for node in tree.children] == [{"type": "reward", "value": 0.5}, {}, {}]


def test_rewards_are_matched_to_the_given_calls() -> None:
    tree = TraceTree.from_spans([make_call("a", 1), make_call("b", 2), make_reward(0.5, 3), make_reward(1.0, 4)])
    a, b = tree.find_id("a"), tree.find_id("b")
    assert a is not None
    assert b is not None
    assert tree.match_rewards("first_occurrence", [a, b]) == {"a": 0.5, "b": 1.0}
    assert tree.match_rewards(RewardMatchPolicy.FINAL, [a, b]) == {"a": None, "b": 1.0}
    assert tree.match_rewards("first_occurrence", [a]) == {"a": 0.5}


def test_a_trajectory_takes_the_final_reward_it_is_given() -> None:
    tree = TraceTree.from_spans([make_call("a", 1), make_reward(0.5, 2), make_call("b", 3), make_reward(0.75, 4)])
    assert [triplet.reward for triplet in tree.to_trajectory()] == [0.5, 0.75]
    triplets = tree.to_trajectory(final_reward=0.25)
    assert [(triplet.reward, triplet.metadata.get("rewards")) for triplet in triplets] == [
        (0.5, {"primary": 0.5}),
        (0.25, None),
    ]


def test_one_span_becomes_a_triplet() -> None:
    tree = example()
    triplet = tree.span_to_triplet(make_call("x", 7), "me")
    assert (triplet.response["token_ids"], triplet.metadata["agent_name"]) == ([8], "me")
    with pytest.raises(ValueError, match="no answer"):
        tree.span_to_triplet(make_span("y"), "me")


def test_a_subclass_says_what_a_calls_triplet_is() -> None:
    class Marked(TraceTree):
        def span_to_triplet(self, span: Span, agent_name: str) -> Triplet:
            return Triplet(prompt=f"{span.span_id} of {agent_name}", response=None)

    tree = Marked.from_spans([make_agent("me"), make_call("a", 1, "me", answers=2), make_reward(0.5, 2)])
    first, second = tree.to_trajectory()
    assert (first.prompt, first.reward) == ("a of me", 0.5)
    assert second.response["token_ids"] == [2]


@pytest.mark.parametrize(
    "shape",
    [
        lambda messages: messages,
        lambda messages: {"prompt_filter_results": [], **{str(n): each for n, each in enumerate(messages)}},
        lambda messages: [{**each, "content": json.dumps(each["content"])} for each in messages],
    ],
    ids=["list", "azure", "json"],
)
def test_image_urls_are_found_in_order(shape: Any) -> None:
    def part(url: Any) -> dict[str, Any]:
        return {"type": "image_url", "image_url": url}

    messages = [
        {
            "role": "user",
            "content": [part({"url": "one"}), {"type": "text", "text": "x"}, part("bare"), part({"url": "two"})],
        },
        *({"role": "user", "content": f"[image_url {n}"} for n in range(10)),
        {"role": "user", "content": "[" * 100_000 + "image_url"},
        {"role": "user", "content": [part({"url": "three"})]},
    ]
    assert example().extract_prompt_image_urls(shape(messages)) == ["one", "two", "three"]
    assert example().extract_prompt_image_urls("no messages") == []
    assert example().extract_prompt_image_urls(messages[0]) == ["one", "two"]


def test_a_drawing_shows_the_spans_asked_for_and_those_above(tmp_path: Path) -> None:
    spans = [make_span('say "hi"', id="root"), make_agent("planner", 1, "root"), make_call("plan", 2, "planner")]
    spans.append(make_span("other", 3, "root"))
    tree = TracerTraceToTriplet().visualize(spans, filename=str(tmp_path / "all"))
    assert names(tree) == ["root", "planner", "plan", "other"]
    text = (tmp_path / "all.dot").read_text()
    assert r'label="say \"hi\""' in text
    assert re.findall(r'"(\d)" -> "(\d)"', text) == [("0", "1"), ("0", "3"), ("1", "2")]
    tree.visualize(str(tmp_path / "some"), interested_span_match="^plan$")
    assert "other" not in (tmp_path / "some.dot").read_text()
    assert (tmp_path / "some.dot").read_text().count("->") == 2
