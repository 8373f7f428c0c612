"""Which call gets which reward."""

from __future__ import annotations

import pytest

from agentlightning import semconv
from agentlightning.adapter import LlmProxyTraceToTriplet, TracerTraceToTriplet, TraceToTripletBase
from agentlightning.types import Span
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call


def call(sequence_id: int) -> Span:
    choice = CapturedChoice(token_ids=[sequence_id], logprobs=[-1.0], finish_reason="stop", message={"content": "x"})
    attributes = encode_call(
        CapturedCall(
            request='{"messages": []}', prompt_token_ids=[1, 2], choices=[choice], response_id=str(sequence_id)
        )
    )
    return Span.from_attributes(attributes=attributes, sequence_id=sequence_id, name=semconv.AGL_LLM_CALL)


def reward(sequence_id: int, value: float) -> Span:
    attributes = {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": value}
    return Span.from_attributes(attributes=attributes, sequence_id=sequence_id, name=semconv.AGL_ANNOTATION)


@pytest.mark.parametrize(
    ("adapter", "rewards"),
    [(TracerTraceToTriplet(), [0.25, 0.5, 0.75]), (LlmProxyTraceToTriplet(), [0.25, 0.75, 0.5])],
)
def test_rewards_find_their_calls(adapter: TraceToTripletBase, rewards: list[float | None]) -> None:
    spans = [call(1), reward(2, 0.25), call(3), call(4), reward(5, 0.5), reward(6, 0.75)]
    triplets = adapter(spans[::-1])
    assert [triplet.reward for triplet in triplets] == rewards
    assert [triplet.response["token_ids"] for triplet in triplets] == [[1], [3], [4]]
    assert triplets[0].prompt["token_ids"] == [1, 2]
    assert triplets[0].response["logprobs"] == [{"logprob": -1.0}]
    assert triplets[0].metadata["response_id"] == "1"


@pytest.mark.parametrize("adapter", [TracerTraceToTriplet(), LlmProxyTraceToTriplet()])
def test_rewards_without_calls_and_calls_without_rewards_are_fine(adapter: TraceToTripletBase) -> None:
    assert adapter([reward(1, 1.0)]) == []
    assert [triplet.reward for triplet in adapter([call(1)])] == [None]
