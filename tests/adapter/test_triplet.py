"""Triplets: what they hold, which calls they are made of, and which rewards they carry."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import agentlightning as agl
from agentlightning.adapter import LlmProxyTraceToTriplet, TracerTraceToTriplet, TraceToTripletBase, TraceTree
from agentlightning.adapter.triplet import RewardMatchPolicy, Transition
from agentlightning.types import Span, Triplet
from tests.adapter.spans import make_agent, make_call, make_reward, make_span


def names(triplets: list[Triplet]) -> list[str]:
    """The tests' models answer with the name of their call."""
    return [triplet.response["raw_content"][0]["content"] for triplet in triplets]


@pytest.mark.parametrize(
    ("adapter", "rewards"),
    [
        (TracerTraceToTriplet(), [0.25, 0.5, 0.75]),
        (TracerTraceToTriplet(reward_match=RewardMatchPolicy.FINAL), [None, None, 0.75]),
        (LlmProxyTraceToTriplet(), [0.25, 0.75, 0.5]),
    ],
    ids=["tracer", "final", "proxy"],
)
def test_rewards_find_their_calls(adapter: TraceToTripletBase, rewards: list[float | None]) -> None:
    spans = [make_call("a", 1), make_reward(0.25, 2), make_call("b", 3), make_call("c", 4)]
    spans += [make_reward(0.5, 5), make_reward(0.75, 6)]
    triplets = adapter(spans[::-1])
    assert names(triplets) == ["a", "b", "c"]
    assert [triplet.reward for triplet in triplets] == rewards


def test_a_triplet_holds_the_call_and_says_where_its_reward_is_from() -> None:
    spans = [
        make_agent("planner"),
        make_call("a", 1, "planner"),
        make_reward({"good": 1.0, "short": 0.5}, 2, "planner"),
        make_span("other root", 3),
    ]
    (triplet,) = TracerTraceToTriplet()(spans)
    assert triplet.prompt == {
        "token_ids": [1, 2],
        "raw_content": [{"role": "user", "content": "hi"}],
        "image_urls": [],
    }
    assert triplet.response == {
        "token_ids": [2],
        "raw_content": [{"role": "assistant", "content": "a", "finish_reason": "stop"}],
        "logprobs": [{"logprob": -0.5}],
    }
    assert triplet.reward == 1.0
    assert triplet.metadata["request"] == {"model": "m", "temperature": 0.5}
    assert triplet.metadata["response_id"] == "resp-a"
    assert triplet.metadata["agent_name"] == "planner"
    assert triplet.metadata["rewards"] == {"good": 1.0, "short": 0.5}
    assert triplet.metadata["reward_rule"] == "subtree"
    assert {"response"} <= set(triplet.metadata)


def test_each_answer_is_a_triplet_and_the_first_carries_the_reward() -> None:
    triplets = TracerTraceToTriplet()([make_call("a", 1, answers=3), make_reward(1.0, 2)])
    assert [triplet.reward for triplet in triplets] == [1.0, None, None]


def test_only_the_agents_asked_for_are_trained_and_rewarded() -> None:
    spans = [make_agent("planner"), make_call("a", 1, "planner"), make_agent("writer", 2), make_call("b", 3, "writer")]
    spans += [make_call("c", 4), make_reward(1.0, 5)]
    assert names(TracerTraceToTriplet()(spans)) == ["a", "b", "c"]
    assert [t.metadata["agent_name"] for t in TracerTraceToTriplet()(spans)] == ["planner", "writer", "*"]
    (triplet,) = TracerTraceToTriplet(agent_match="^plan")(spans)
    assert (triplet.metadata["agent_name"], triplet.reward) == ("planner", 1.0)
    assert TracerTraceToTriplet(agent_match="^nobody")(spans) == []


def test_calls_are_chosen_by_the_names_of_their_spans() -> None:
    spans = [make_call("openai.chat.completion", 1), make_call("ChatCompletion", 2)]
    assert len(TracerTraceToTriplet()(spans)) == 2
    assert names(TracerTraceToTriplet(llm_call_match=r"openai\.chat\.completion")(spans)) == ["openai.chat.completion"]


@pytest.mark.parametrize("name", ["llm_call_match", "agent_match"])
def test_what_is_no_expression_is_refused_at_once(name: str) -> None:
    with pytest.raises(agl.errors.ConfigurationError, match=f"{name}='\\[a' is no regular expression"):
        TracerTraceToTriplet(**{name: "[a"})
    with pytest.raises(agl.errors.ConfigurationError, match="first_occurrence, first_sibling, back_fill, final"):
        TraceTree.from_spans([make_call("a")]).to_trajectory(reward_match="best")  # type: ignore[arg-type]
    with pytest.raises(agl.errors.ConfigurationError, match="reward_match='best': write first_occurrence"):
        TracerTraceToTriplet(reward_match="best")  # type: ignore[arg-type]


def test_a_name_that_finds_no_call_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert TracerTraceToTriplet(llm_call_match=r"openai\.chat\.completion")([make_call("ChatCompletion", 1)]) == []
    assert "theirs are the spans ['ChatCompletion']" in caplog.text


def test_calls_that_compute_a_reward_are_left_out_unless_asked_for() -> None:
    spans = [make_call("a", 1), make_reward(1.0, 2), make_call("verdict", 3, "reward-2")]
    assert names(TracerTraceToTriplet()(spans)) == ["a"]
    assert names(TracerTraceToTriplet(exclude_llm_call_in_reward=False)(spans)) == ["a", "verdict"]


def test_a_triplets_tokens_are_its_own() -> None:
    span = make_call("a", 1)
    (triplet,) = TracerTraceToTriplet()([span])
    triplet.prompt["token_ids"].append(9)
    triplet.response["token_ids"].append(9)
    assert TracerTraceToTriplet()([span])[0] == TracerTraceToTriplet()([make_call("a", 1)])[0]


def test_calls_without_tokens_can_be_left_out_before_rewards_are_matched() -> None:
    bare = make_call("bare", 2)
    bare.attributes["response_token_ids"] = []
    spans = [make_call("a", 1), bare, make_reward(1.0, 3)]
    assert [triplet.reward for triplet in TracerTraceToTriplet()(spans)] == [None, 1.0]
    for adapter in (TracerTraceToTriplet(_skip_empty_token_spans=True), LlmProxyTraceToTriplet()):
        assert [(name, t.reward) for t, name in zip(adapter(spans), names(adapter(spans)), strict=True)] == [("a", 1.0)]


@pytest.mark.parametrize("adapter", [TracerTraceToTriplet(), LlmProxyTraceToTriplet()], ids=["tracer", "proxy"])
def test_a_failed_call_is_no_triplet_and_takes_no_reward(adapter: TraceToTripletBase) -> None:
    spans = [make_call("a", 1), make_call("failed", 2, error="HTTP 500"), make_reward(1.0, 3)]
    assert [(t.reward, t.metadata["response_id"]) for t in adapter(spans)] == [(1.0, "resp-a")]


@pytest.mark.parametrize("adapter", [TracerTraceToTriplet(), LlmProxyTraceToTriplet()], ids=["tracer", "proxy"])
def test_rewards_without_calls_are_returned_and_logged_once(
    adapter: TraceToTripletBase, caplog: pytest.LogCaptureFixture
) -> None:
    assert adapter([]) == []
    assert [triplet.reward for triplet in adapter([make_call("a", 1)])] == [None]
    spans = [make_reward(1.0, 1), make_reward(0.5, 2)]
    assert [each.reward.value for each in adapter.read(spans).unmatched] == [1.0, 0.5]
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        assert adapter(spans) == []
    (record,) = caplog.records
    assert "2 rewards of rollout r match no model call; the first is 1.0: no call stands before it" in record.message


def test_spans_of_the_opentelemetry_sdk_are_read_too() -> None:
    triplets = TracerTraceToTriplet(agent_match="planner")(recorded_by_the_sdk())
    assert [(name, triplet.reward) for name, triplet in zip(names(triplets), triplets, strict=True)] == [("one", 1.0)]


def recorded_by_the_sdk() -> list[ReadableSpan]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("run", attributes={"agent.name": "planner"}):
        tracer.start_span("call", attributes=dict(make_call("one").attributes)).end()
        tracer.start_span("agentlightning.annotation", attributes=dict(make_reward(1.0).attributes)).end()
    tracer.start_span("call", attributes=dict(make_call("two").attributes)).end()
    provider.shutdown()
    return list(exporter.get_finished_spans())


SCATTERED = """
import json, sys
import agentlightning as agl
from agentlightning.adapter import TracerTraceToTriplet
from agentlightning.types import Span
spans = [Span.model_validate(each) for each in json.load(sys.stdin)]
print(json.dumps([[t.metadata["response_id"], t.reward] for t in TracerTraceToTriplet()(spans)]))
"""


def test_the_hash_seed_changes_nothing() -> None:
    spans: list[Span] = []
    for number in range(8):
        spans.append(make_call(f"call{number}", 0, f"gone{number}", time=(0, 1)))
        spans.append(make_reward(number / 8, 1, f"gone{number}", id=f"reward{number}", time=(2, 2)))
    spans.append(make_span("plain"))
    text = json.dumps([span.model_dump(mode="json") for span in spans])
    outputs = {run_with_hash_seed(text, seed) for seed in ("0", "1", "2")}
    (output,) = outputs
    assert json.loads(output) == [[f"resp-call{number}", number / 8] for number in range(8)]


def run_with_hash_seed(text: str, seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCATTERED],
        input=text, capture_output=True, text=True, check=True, timeout=60, env={"PYTHONHASHSEED": seed},
    )  # fmt: skip
    return done.stdout


def test_transitions_of_v03_can_be_made() -> None:
    fields: dict[str, Any] = {"state": [1], "action": [2], "response_id": None, "agent_name": "a", "reward": 1.0}
    assert Transition(**fields).model_dump() == fields
