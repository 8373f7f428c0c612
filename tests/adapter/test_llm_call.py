"""The normaliser reads what the gateway writes, and what other sources wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning import semconv
from agentlightning.adapter import TraceToTrajectories, llm_calls
from agentlightning.adapter.llm_call import read_calls
from agentlightning.types import Attributes, Span, TraceStatus
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call

token_lists = st.lists(st.integers(0, 1000), min_size=1, max_size=5)
choices = st.lists(token_lists, min_size=1, max_size=3)


def captured(prompt: list[int], answers: list[list[int]], response_id: str | None = "id") -> Attributes:
    request = {"model": "m", "messages": [{"role": "user", "content": "häy"}], "temperature": 0.5, "n": len(answers)}
    call = CapturedCall(
        request=json.dumps(request),
        model="m",
        prompt_token_ids=prompt,
        choices=[
            CapturedChoice(token_ids=ids, logprobs=[-0.5] * len(ids), finish_reason="stop", message={"content": str(i)})
            for i, ids in enumerate(answers)
        ],
        response_id=response_id,
        weights_version=7,
    )
    return encode_call(call)


def test_what_else_the_gateway_knows_of_an_answer_is_read() -> None:
    said = {"model": "m-1", "usage": {"prompt_tokens": 1}, "system_fingerprint": "f"}
    choice = CapturedChoice(token_ids=[2], logprobs=None, finish_reason="stop", message={"content": "A"})
    call = CapturedCall(request="{}", choices=[choice], response_id="x", response=said, streamed=True)
    (read,) = llm_calls([make_span(encode_call(call))])
    assert {key: read.response[key] for key in said} == said
    assert (read.streamed, read.source, read.response["id"]) == (True, "gateway", "x")
    (whole,) = llm_calls([make_span(captured([1], [[2]]))])
    assert not whole.streamed


def test_the_partial_answer_of_a_stream_that_broke_off_is_no_call() -> None:
    call = CapturedCall(request='{"stream": true}', partial=[{"content": "Hel"}], streamed=True)
    span = make_span(encode_call(call))
    span.status = TraceStatus(status_code="ERROR", description="the client left")
    read = read_calls([span])
    assert (read.calls, [seen.failure for seen in read.failed]) == ([], ["the client left"])


def make_span(
    attributes: Attributes, sequence_id: int = 1, name: str = semconv.AGL_LLM_CALL, start: float = 1.0
) -> Span:
    return Span.from_attributes(
        attributes=attributes, rollout_id="r", attempt_id="a", sequence_id=sequence_id, name=name, start_time=start
    )


@settings(deadline=None)
@given(token_lists, choices)
def test_what_is_written_is_read_one_record_per_choice(prompt: list[int], answers: list[list[int]]) -> None:
    span = Span.model_validate_json(make_span(captured(prompt, answers)).model_dump_json())
    calls = llm_calls([span])
    assert [call.response_token_ids for call in calls] == answers
    assert [call.response_logprobs for call in calls] == [[-0.5] * len(ids) for ids in answers]
    assert [call.choice for call in calls] == list(range(len(answers)))
    assert [call.message for call in calls] == [{"content": str(i)} for i in range(len(answers))]
    for call in calls:
        assert call.prompt_token_ids == prompt
        assert (call.temperature, call.sampling) == (0.5, {"temperature": 0.5, "n": len(answers)})
        assert (call.finish_reason, call.weights_version, call.model, call.response_id) == ("stop", 7, "m", "id")
        assert call.messages == [{"role": "user", "content": "häy"}]


@settings(deadline=None)
@given(st.permutations([(1, 5.0), (2, 1.0), (2, 2.0), (3, 0.5)]))
def test_calls_are_ordered_by_sequence_then_start(order: list[tuple[int, float]]) -> None:
    spans = [make_span(captured([1], [[2]], None), number, start=start) for number, start in order]
    assert [(call.sequence_id, call.start_time) for call in llm_calls(spans)] == sorted(order)


def test_failed_calls_and_other_spans_are_left_out() -> None:
    failed = make_span(captured([1], [[2]]))
    failed.status = TraceStatus(status_code="ERROR", description="HTTP 500")
    unanswered = make_span(encode_call(CapturedCall(request="{}")))
    assert llm_calls([failed, unanswered, make_span({"agentlightning.reward.0.value": 1.0}, name="reward")]) == []


def test_spans_become_training_rows() -> None:
    spans = [make_span(captured([1], [[2]], "x"), 1), make_span(captured([1, 2, 3], [[4]], "y"), 2)]
    (row,) = TraceToTrajectories()(spans)
    assert (row.token_ids, row.mask) == ([1, 2, 3, 4], [False, True, False, True])
    assert row.weights_versions == [-1, 7, -1, 7]


@pytest.mark.parametrize("temperature", ["1" + "0" * 400, "NaN", "Infinity", "-1", "true", '"warm"', "null"])
def test_what_is_no_temperature_counts_as_absent(temperature: str) -> None:
    span = make_span(captured([1], [[2]]))
    span.attributes["agentlightning.llm_call.request"] = f'{{"temperature": {temperature}}}'
    assert [call.temperature for call in llm_calls([span])] == [1.0]


def test_log_probabilities_beyond_all_floats_count_as_absent() -> None:
    span = make_span(captured([1], [[2]]))
    span.attributes["agentlightning.llm_call.logprobs"] = [10**400]  # type: ignore[list-item]
    assert [call.response_logprobs for call in llm_calls([span])] == [None]


def test_calls_made_to_compute_a_reward_are_counted() -> None:
    judge = make_span({"agentlightning.operation.name": semconv.AGL_REWARD}, name=semconv.AGL_OPERATION)
    verdict = make_span(captured([1], [[2], [3]], "x"), 2)
    verdict.parent_id = judge.span_id
    read = TraceToTrajectories().read([judge, verdict, make_span(captured([1], [[2]], "y"), 3)])
    assert (read.counters.calls, read.counters.calls_in_rewards) == (1, 2)
