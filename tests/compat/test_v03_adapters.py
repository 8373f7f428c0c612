"""Facts of v0.3's adapters that programs rely on; docs/compat.md lists them. The spans are as AgentOps, Weave and
LiteLLM record them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.adapter import (
    Adapter,
    LlmProxyTraceToTriplet,
    OtelTraceAdapter,
    TraceAdapter,
    TracerTraceToTriplet,
    TraceToMessages,
    TraceToTripletBase,
)
from agentlightning.adapter.triplet import RewardMatchPolicy, TraceTree, Transition
from agentlightning.emitter import emit_reward
from agentlightning.types import Span, TraceStatus, Triplet
from tests.compat.signatures import takes


def span(name: str, number: int, parent: str | None = None, /, **attributes: Any) -> Span:
    """A span that lasts from `number` to the next; keys are written with `__` for a dot."""
    return made(name, number, parent, {key.replace("__", "."): value for key, value in attributes.items()})


def made(
    name: str, number: int, parent: str | None, attributes: dict[str, Any], *, id: str = "", end: float | None = None
) -> Span:
    return Span.from_attributes(
        attributes=attributes,
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=number,
        name=name,
        trace_id="0" * 31 + "1",
        span_id=id or f"{name}-{number}",
        parent_id=parent,
        start_time=float(number),
        end_time=number + 0.5 if end is None else end,
    )


def agentops_call(number: int, parent: str | None = None, *, id: str = "", **further: Any) -> Span:
    attributes = {
        "gen_ai.request.type": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": f"question {number}",
        "gen_ai.response.id": f"resp-{number}",
        "gen_ai.response.model": "m-1",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": f"answer {number}",
        "gen_ai.completion.0.finish_reason": "stop",
        "prompt_token_ids": [1, 2],
        "response_token_ids": [3, number],
        "logprobs.content": json.dumps([{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.0}]),
    }
    return made("openai.chat.completion", number, parent, attributes | further, id=id or f"call-{number}")


def reward(value: float, number: int, parent: str | None = None) -> Span:
    return made("agentlightning.annotation", number, parent, dict(emit_reward(value, propagate=False).attributes))


def agent(name: str, number: int, parent: str | None = None, *, end: float | None = None) -> Span:
    return made(f"agent {name}", number, parent, {"agent.name": name}, id=name, end=end)


def answers(triplets: Sequence[Any]) -> list[str]:
    return [triplet.response["raw_content"][0]["content"] for triplet in triplets]


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_an_adapter_is_called() -> None:
    class Count(TraceAdapter[int]):
        def adapt(self, source: Sequence[Span], /) -> int:
            return len(source)

    assert Count()([span("a", 1)]) == 1
    with pytest.raises(NotImplementedError):
        Adapter[int, int]()(1)


def test_the_classes_and_their_bases_are_those_of_v03() -> None:
    assert issubclass(TraceAdapter, Adapter)
    assert issubclass(OtelTraceAdapter, Adapter)
    assert issubclass(TraceToTripletBase, TraceAdapter)
    assert issubclass(TracerTraceToTriplet, TraceToTripletBase)
    assert issubclass(LlmProxyTraceToTriplet, TraceToTripletBase)
    assert issubclass(TraceToMessages, TraceAdapter)
    assert Transition(state=[1], action=[2], response_id=None, agent_name="a", reward=None).action == [2]


# -- TracerTraceToTriplet ----------------------------------------------------------------------------------------------


def test_constructors_take_v03s_arguments() -> None:
    assert takes(
        TracerTraceToTriplet,
        "repair_hierarchy=True, llm_call_match=None, agent_match=None, exclude_llm_call_in_reward=True, "
        "reward_match=first_occurrence, _skip_empty_token_spans=False",
    )
    assert takes(TracerTraceToTriplet.visualize, "source, filename=trace_tree, interested_span_match=None")
    assert takes(LlmProxyTraceToTriplet, "")
    assert takes(TraceToMessages, "")
    assert {policy.value for policy in RewardMatchPolicy} >= {"first_occurrence", "first_sibling"}


def test_spans_of_opentelemetry_are_taken_too() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("elsewhere")
    recorded = tracer.start_span("openai.chat.completion", attributes=dict(agentops_call(1).attributes))
    recorded.end()
    (triplet,) = TracerTraceToTriplet()([recorded])  # type: ignore[list-item]
    assert triplet.response["token_ids"] == [3, 1]


def test_calls_and_agents_are_chosen_by_search() -> None:
    spans = [agent("the writer", 1, end=9), agentops_call(2, "the writer"), agentops_call(3)]
    assert answers(TracerTraceToTriplet(agent_match="write", repair_hierarchy=False)(spans)) == ["answer 2"]
    assert answers(TracerTraceToTriplet(agent_match="reader", repair_hierarchy=False)(spans)) == []
    assert len(TracerTraceToTriplet(llm_call_match=r"openai\.chat\.completion")(spans)) == 2
    assert TracerTraceToTriplet(llm_call_match="anthropic")(spans) == []


def test_a_tree_is_drawn_and_returned(tmp_path: Any) -> None:
    tree = TracerTraceToTriplet().visualize([agent("a", 1), agentops_call(2, "a")], filename=str(tmp_path / "tree"))
    assert [node.id for node in tree.traverse()] == ["a", "call-2"]
    assert [path.stem for path in tmp_path.iterdir()] == ["tree"]


# -- TraceTree ---------------------------------------------------------------------------------------------------------


def test_a_tree_needs_spans() -> None:
    with pytest.raises(ValueError):
        TraceTree.from_spans([])


def test_any_order_builds_one_tree() -> None:
    spans = [agent("a", 1), agent("b", 2, "a"), agentops_call(3, "b"), agentops_call(4, "a"), reward(1.0, 5, "a")]
    expected = TraceTree.from_spans(spans).names_tuple()
    for seed in range(10):
        assert TraceTree.from_spans(random.Random(seed).sample(spans, len(spans))).names_tuple() == expected


def test_missing_parents_and_several_roots_get_virtual_nodes() -> None:
    absent = TraceTree.from_spans([agentops_call(1, "absent"), agentops_call(2, "absent")])
    assert (absent.id, absent.span.name, absent.start_time, absent.end_time) == (
        "absent",
        "agentlightning.virtual",
        1.0,
        2.5,
    )
    several = TraceTree.from_spans([span("a", 1), span("b", 2)])
    assert (several.id, several.span.name) == ("virtual-root", "virtual-root")
    assert [child.span.name for child in several.children] == ["a", "b"]


def test_a_tree_is_walked() -> None:
    tree = TraceTree.from_spans([agent("a", 1), span("b", 2, "a"), span("c", 3, "b-2"), span("d", 4, "a")])
    assert [node.id for node in tree.traverse()] == ["a", "b-2", "c-3", "d-4"]
    found = tree.find_id("c-3")
    assert found is not None
    assert (found.span.name, tree.find_id("nobody")) == ("c", None)
    name, children = tree.names_tuple()
    assert name == "agent a [a]"
    assert [child[0] for child in children] == ["b", "d"]
    assert tree.to_json()["children"][0]["children"][0]["id"] == "c-3"
    found.add_child(TraceTree("e", span("e", 5)))
    assert tree.find_id("e") is not None


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("x", {"agent.name": "me"}),
        ("x", {"agentops.span.kind": "agent", "operation.name": "me"}),
        ("x", {"recipient_agent_type": "me"}),
        ("x", {"langchain.chain.type": "me"}),
        ("x", {"executor.id": "me"}),
        ("x", {"type": "agent", "agentlightning.operation.input.name": "me"}),
        ("langchain.Chain.run", {"lc_name": "me"}),
    ],
)
def test_agents_are_named_by_the_keys_of_frameworks(name: str, attributes: dict[str, Any]) -> None:
    assert TraceTree.from_spans([made(name, 1, None, attributes)]).agent_name() == "me"


def test_reward_spans_of_a_tree() -> None:
    computed = span("agentlightning.operation", 1, agentlightning__operation__name="agentlightning.reward")
    assert TraceTree.from_spans([computed]).is_reward_span()
    assert TraceTree.from_spans([reward(0.5, 1)]).is_reward_span()
    assert TraceTree.from_spans([reward(0.5, 1)]).maybe_reward_dict() == {"type": "reward", "value": 0.5}
    assert not TraceTree.from_spans([span("agentlightning.operation", 1)]).is_reward_span()


def test_repair_moves_a_stray_call_below_its_agent() -> None:
    spans = [span("root", 0), agent("me", 1, "root-0", end=9), agentops_call(2, "root-0"), span("x", 20, "root-0")]
    spans[0].end_time = 30.0
    assert TracerTraceToTriplet(agent_match="me", repair_hierarchy=False)(spans) == []
    assert answers(TracerTraceToTriplet(agent_match="me")(spans)) == ["answer 2"]


def test_the_nearest_agent_labels_a_call() -> None:
    spans = [agent("outer", 1), agent("inner", 2, "outer"), agentops_call(3, "inner"), agentops_call(4, "outer")]
    labels = [triplet.metadata["agent_name"] for triplet in TracerTraceToTriplet()(spans)]
    assert labels == ["inner", "outer"]
    assert TracerTraceToTriplet()([agentops_call(1)])[0].metadata["agent_name"] == "*"


def test_calls_inside_a_reward_are_left_out() -> None:
    judging = span("agentlightning.operation", 2, agentlightning__operation__name="agentlightning.reward")
    spans = [agentops_call(1), judging, agentops_call(3, judging.span_id)]
    assert answers(TracerTraceToTriplet()(spans)) == ["answer 1"]
    assert len(TracerTraceToTriplet(exclude_llm_call_in_reward=False)(spans)) == 2


def test_a_response_id_counts_once() -> None:
    outer = agentops_call(1, **{"gen_ai.response.id": "same"})
    inner = agentops_call(2, "call-1", **{"gen_ai.response.id": "same"})
    assert len(TracerTraceToTriplet()([outer, inner])) == 1


def test_a_reward_goes_to_the_latest_call_before_it() -> None:
    spans = [agentops_call(1), agentops_call(2), reward(0.5, 3), agentops_call(4)]
    assert [triplet.reward for triplet in TracerTraceToTriplet()(spans)] == [None, 0.5, None]


def test_a_reward_goes_to_calls_that_began_since_the_last_one() -> None:
    spans = [agentops_call(1), agentops_call(2), reward(0.1, 3), agentops_call(4), reward(0.2, 5), reward(0.3, 6)]
    reading = TracerTraceToTriplet().read(spans)
    assert [triplet.reward for triplet in reading.triplets] == [None, 0.1, 0.2]  # in v0.3 the first has 0.3
    assert [each.reward.value for each in reading.unmatched] == [0.3]
    running = agentops_call(1)
    running.end_time = 10.0
    assert [triplet.reward for triplet in TracerTraceToTriplet()([running, reward(0.5, 5)])] == [0.5]  # in v0.3 None


def test_siblings_keep_their_rewards() -> None:
    spans = [agent("a", 1), agent("b", 2), agentops_call(3, "a"), agentops_call(4, "b"), reward(0.5, 5, "a")]
    adapter = TracerTraceToTriplet(reward_match=RewardMatchPolicy.FIRST_SIBLING)
    assert {triplet.metadata["agent_name"]: triplet.reward for triplet in adapter(spans)} == {"a": 0.5, "b": None}


def test_rewards_of_two_calls_stay_in_their_order() -> None:
    spans = [agentops_call(1), agentops_call(2), reward(0.1, 3), reward(0.2, 4)]
    assert [triplet.reward for triplet in TracerTraceToTriplet()(spans)] == [0.1, 0.2]


def test_rewards_that_match_no_call_are_reported() -> None:
    reading = TracerTraceToTriplet().read([reward(0.5, 1), agentops_call(2)])
    assert [triplet.reward for triplet in reading.triplets] == [None]
    assert [each.reward.value for each in reading.unmatched] == [0.5]


def test_agentops_spans_become_triplets() -> None:
    (triplet,) = TracerTraceToTriplet()([agent("me", 1), agentops_call(2, "me"), reward(1.0, 3, "me")])
    assert triplet.prompt["token_ids"] == [1, 2]
    assert triplet.prompt["raw_content"] == [{"role": "user", "content": "question 2"}]
    assert triplet.prompt["image_urls"] == []
    assert triplet.response["token_ids"] == [3, 2]
    assert triplet.response["raw_content"][0]["content"] == "answer 2"
    assert [entry["logprob"] for entry in triplet.response["logprobs"]] == [-0.5, -1.0]
    assert triplet.reward == 1.0
    assert triplet.metadata["response_id"] == "resp-2"
    assert triplet.metadata["agent_name"] == "me"
    assert triplet.metadata["request"]["temperature"] == 0.5
    assert "messages" not in triplet.metadata["request"]
    assert triplet.metadata["response"]["model"] == "m-1"


def test_weave_spans_become_triplets() -> None:
    attributes = {
        "agentlightning.operation.name": "openai.chat.completions.create",
        "agentlightning.operation.input.model": "m",
        "agentlightning.operation.input.messages.0.role": "user",
        "agentlightning.operation.input.messages.0.content": "question",
        "agentlightning.operation.output.id": "resp-1",
        "agentlightning.operation.output.prompt_token_ids": [1, 2],
        "agentlightning.operation.output.choices.0.token_ids": [3],
        "agentlightning.operation.output.choices.0.message.role": "assistant",
        "agentlightning.operation.output.choices.0.message.content": "answer",
    }
    (triplet,) = TracerTraceToTriplet()([made("openai.chat.completions.create", 1, None, attributes)])
    assert (triplet.prompt["token_ids"], triplet.response["token_ids"]) == ([1, 2], [3])
    assert triplet.prompt["raw_content"] == [{"role": "user", "content": "question"}]
    assert triplet.metadata["response_id"] == "resp-1"


def test_images_are_found_in_prompts() -> None:
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "http://a"}},
        {"type": "image_url", "image_url": {"url": "http://b"}},
    ]
    call = agentops_call(1, **{"gen_ai.prompt.0.content": json.dumps(parts)})
    assert TracerTraceToTriplet()([call])[0].prompt["image_urls"] == ["http://a", "http://b"]
    tree = TraceTree.from_spans([call])
    assert tree.extract_prompt_image_urls({"0": {"content": parts}, "prompt_filter_results": []}) == [
        "http://a",
        "http://b",
    ]
    assert tree.extract_prompt_image_urls([{"content": "[image_url"}]) == []


def test_a_final_reward_is_the_last_calls() -> None:
    tree = TraceTree.from_spans([agentops_call(1), reward(0.1, 2), agentops_call(3), reward(0.2, 4)])
    assert [triplet.reward for triplet in tree.to_trajectory(final_reward=0.9)] == [0.1, 0.9]


def test_calls_without_tokens_may_be_left_out() -> None:
    bare = agentops_call(1)
    for key in ("prompt_token_ids", "response_token_ids", "logprobs.content"):
        del bare.attributes[key]
    spans = [bare, agentops_call(2)]
    assert len(TracerTraceToTriplet()(spans)) == 2
    assert answers(TracerTraceToTriplet(_skip_empty_token_spans=True)(spans)) == ["answer 2"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (
            TraceTree.find_llm_calls,
            "llm_call_match, agent_match, within_matching_subtree=None, within_reward=None, within_llm_call=None, "
            "existing_llm_call_response_ids=None",
        ),
        (TraceTree.match_rewards, "reward_match, llm_calls"),
        (
            TraceTree.to_trajectory,
            "llm_call_match=None, agent_match=None, exclude_llm_call_in_reward=True, dedup_llm_call=True, "
            "reward_match=first_occurrence, final_reward=None, _skip_empty_token_spans=False",
        ),
        (TraceTree.span_to_triplet, "span, agent_name"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_trees_are_asked_with_v03s_arguments(function: Any, expected: str) -> None:
    assert takes(function, expected)


def test_a_tree_finds_its_calls_and_matches_rewards_to_them() -> None:
    tree = TraceTree.from_spans([agent("me", 1), agentops_call(2, "me"), agentops_call(3, "me"), reward(0.5, 4)])
    found = tree.find_llm_calls(llm_call_match=r"openai\.chat\.completion", agent_match="me")
    assert [(node.id, name) for node, name in found] == [("call-2", "me"), ("call-3", "me")]
    rewards = tree.match_rewards("first_occurrence", [node for node, _ in found])
    assert rewards == {"call-2": None, "call-3": 0.5}


def test_a_subclass_makes_its_own_triplets() -> None:
    class Short(TraceTree):
        def span_to_triplet(self, span: Span, agent_name: str) -> Triplet:
            return Triplet(prompt=span.span_id, response=agent_name)

    tree = Short.from_spans([agent("me", 1), agentops_call(2, "me"), reward(0.5, 3)])
    assert [(each.prompt, each.response, each.reward) for each in tree.to_trajectory()] == [("call-2", "me", 0.5)]


def test_failed_calls_get_nothing() -> None:
    failed = agentops_call(2)
    failed.status = TraceStatus(status_code="ERROR")
    for key in [key for key in failed.attributes if "completion" in key or "response" in key]:
        del failed.attributes[key]
    assert [triplet.reward for triplet in TracerTraceToTriplet()([agentops_call(1), failed, reward(1.0, 3)])] == [1.0]


# -- LlmProxyTraceToTriplet --------------------------------------------------------------------------------------------


def proxy_call(number: int, response_id: str | None = None) -> Span:
    attributes = {
        "gen_ai.response.id": response_id or f"resp-{number}",
        "llm.hosted_vllm.prompt_token_ids": "[1, 2]",
        "llm.hosted_vllm.response_token_ids": f"[[3, {number}]]",
    }
    return made("raw_gen_ai_request", number, None, attributes)


def test_spans_of_litellm_are_calls() -> None:
    by_choice = proxy_call(2)
    del by_choice.attributes["llm.hosted_vllm.response_token_ids"]
    by_choice.attributes["llm.hosted_vllm.choices"] = "[{'token_ids': [3, 2], 'message': {'content': None}}]"
    plain = made(
        "litellm_request",
        3,
        None,
        {"gen_ai.response.id": "resp-3", "prompt_token_ids": [1, 2], "response_token_ids": [3, 3]},
    )
    triplets = LlmProxyTraceToTriplet()([proxy_call(1), by_choice, plain, reward(1.0, 4)])
    assert [triplet.response["token_ids"] for triplet in triplets] == [[3, 1], [3, 2], [3, 3]]
    assert [triplet.prompt["token_ids"] for triplet in triplets] == [[1, 2]] * 3
    assert [triplet.reward for triplet in triplets] == [None, None, 1.0]
    assert [triplet.metadata["response_id"] for triplet in triplets] == ["resp-1", "resp-2", "resp-3"]
    empty = made("litellm_request", 5, None, {"gen_ai.response.id": "x", "prompt_token_ids": [1]})
    assert LlmProxyTraceToTriplet()([empty]) == []


def test_proxy_calls_are_ordered_by_sequence() -> None:
    late, early = proxy_call(2), proxy_call(1)
    late.start_time, early.start_time = 0.0, 100.0
    triplets = LlmProxyTraceToTriplet()([late, early])
    assert [triplet.metadata["response_id"] for triplet in triplets] == ["resp-1", "resp-2"]


def test_a_proxy_request_counts_once() -> None:
    again = made(
        "litellm_request",
        2,
        None,
        {"gen_ai.response.id": "resp-1", "prompt_token_ids": [1, 2], "response_token_ids": [3, 1]},
    )
    triplets = LlmProxyTraceToTriplet()([proxy_call(1), again])
    assert [triplet.response["token_ids"] for triplet in triplets] == [[3, 1]]


def test_a_proxy_reward_goes_to_the_newest_earlier_call() -> None:
    calls = [proxy_call(1), proxy_call(2), proxy_call(4)]
    adapter = LlmProxyTraceToTriplet()
    assert [each.reward for each in adapter([*calls, reward(0.5, 3)])] == [None, 0.5, None]
    same_place = [each.reward for each in adapter([*calls, reward(0.5, 2)])]
    assert same_place == [0.5, None, None], "an equal sequence id is not smaller"
    assert [each.reward for each in adapter([*calls, reward(0.1, 5), reward(0.2, 6)])] == [None, 0.2, 0.1]


# -- TraceToMessages ---------------------------------------------------------------------------------------------------


def test_agentops_spans_become_messages() -> None:
    call = agentops_call(
        1,
        **{
            "gen_ai.prompt.1.role": "assistant",
            "gen_ai.prompt.1.tool_calls.0.id": "call_0",
            "gen_ai.prompt.1.tool_calls.0.name": "look",
            "gen_ai.prompt.1.tool_calls.0.arguments": '{"at": 1}',
            "gen_ai.prompt.2.role": "tool",
            "gen_ai.prompt.2.content": "nothing",
            "gen_ai.prompt.2.tool_call_id": "call_0",
            "gen_ai.request.functions.0.name": "look",
            "gen_ai.request.functions.0.description": "Look.",
            "gen_ai.request.functions.0.parameters": '{"type": "object"}',
        },
    )
    with_tools, without = TraceToMessages()([call, agentops_call(2)])
    user, asking, tool, answer = with_tools["messages"]
    assert (user["role"], user["content"]) == ("user", "question 1")
    assert asking["tool_calls"][0]["id"] == "call_0"
    assert asking["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": 1}'}
    assert (tool["role"], tool["content"], tool["tool_call_id"]) == ("tool", "nothing", "call_0")
    assert (answer["role"], answer["content"]) == ("assistant", "answer 1")
    assert with_tools["tools"] is not None
    assert with_tools["tools"][0]["function"] == {
        "name": "look",
        "description": "Look.",
        "parameters": {"type": "object"},
    }
    assert without["tools"] is None


def test_tool_children_become_tool_calls() -> None:
    call = agentops_call(1, id="call")
    children = [
        made(
            f"tool_call.look{number}",
            number,
            "call",
            {
                "tool.name": f"look{number}",
                "tool.parameters": '{"at": 1}',
                "tool.call.id": f"call_{number}",
                "tool.call.type": "function",
                "agentops.span.kind": "tool",
            },
        )
        for number in (2, 3)
    ]
    (conversation,) = TraceToMessages()([call, *children])
    calls = conversation["messages"][-1]["tool_calls"]
    assert [each["id"] for each in calls] == ["call_2", "call_3"]
    assert calls[0]["function"] == {"name": "look2", "arguments": '{"at": 1}'}


def test_an_odd_role_kills_nothing_else() -> None:
    odd = agentops_call(1, **{"gen_ai.prompt.0.role": "oracle"})
    (conversation,) = TraceToMessages()([odd, agentops_call(2)])
    assert conversation["messages"][-1]["content"] == "answer 2"
