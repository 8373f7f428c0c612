"""One call that several saw is one call; two calls are two, whatever they have in common."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning import semconv
from agentlightning.adapter.joining import Seen, _Joining
from agentlightning.adapter.llm_call import llm_calls, read_calls
from agentlightning.types import Span, TraceStatus
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call

Json = dict[str, Any]

HI = [{"role": "user", "content": "Hi"}]


def gateway(
    number: int,
    response_id: str | None = "x",
    *,
    said: str = "A",
    tokens: list[int] | None = None,
    time: tuple[float, float] = (1.0, 2.0),
    error: str | None = None,
    version: int | None = 7,
) -> Span:
    choice = CapturedChoice(
        token_ids=[number] if tokens is None else tokens,
        logprobs=None,
        finish_reason="stop",
        message={"role": "assistant", "content": said},
    )
    call = CapturedCall(
        request=json.dumps({"model": "m", "messages": HI, "temperature": 0.5}),
        prompt_token_ids=[1],
        choices=[] if error else [choice],
        response_id=response_id,
        weights_version=version,
    )
    return made(number, semconv.AGL_LLM_CALL, encode_call(call), time=time, error=error)


def sdk(
    number: int,
    response_id: str | None = "x",
    *,
    said: str | None = "A",
    library: str = "sdk",
    parent: Span | None = None,
    time: tuple[float, float] = (1.0, 2.0),
    error: str | None = None,
    messages: list[Json] | None = None,
    token_ids: list[int] | None = None,
) -> Span:
    choice: Json = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop", "token_ids": token_ids}
    reply: Json = {
        "id": response_id,
        "choices": [choice],
        "prompt_token_ids": token_ids and [1],
        "system_fingerprint": "f",
    }
    attributes = {
        "openinference.span.kind": "LLM",
        "input.value": json.dumps({"model": "m", "messages": HI if messages is None else messages}),
        "output.value": "" if said is None else json.dumps(reply),
    }
    return made(number, library, attributes, parent=parent, time=time, error=error)


def made(
    number: int,
    name: str,
    attributes: Any,
    *,
    parent: Span | None = None,
    time: tuple[float, float] = (1.0, 2.0),
    error: str | None = None,
) -> Span:
    return Span.from_attributes(
        attributes=attributes,
        rollout_id="r",
        attempt_id="a",
        sequence_id=number,
        name=name,
        span_id=f"{number:016x}",
        parent_id=parent.span_id if parent else None,
        start_time=time[0],
        end_time=time[1],
        status=TraceStatus(status_code="ERROR", description=error) if error else None,
    )


def seen_by(*spans: Span) -> list[list[int]]:
    """The sequence ids of the spans that saw each call, the one that is used first."""
    numbers = {span.span_id: span.sequence_id for span in spans}
    return [[numbers[sighting.span_id] for sighting in seen.sightings] for seen in read_calls(spans).seen]


def test_of_two_with_one_id_the_one_with_tokens_is_used_then_the_gateway() -> None:
    assert seen_by(gateway(1, tokens=[]), sdk(2, token_ids=[5])) == [[2, 1]]
    assert seen_by(gateway(1, tokens=[4]), sdk(2, token_ids=[5])) == [[1, 2]]
    assert seen_by(gateway(1, tokens=[]), sdk(2)) == [[1, 2]]


def test_what_the_one_that_is_used_does_not_know_the_others_fill_in() -> None:
    (call,) = llm_calls([gateway(1, tokens=[]), sdk(2, token_ids=[5], messages=[])])
    assert (call.response_token_ids, call.source) == ([5], "openinference")
    assert (call.messages, call.temperature, call.weights_version) == (HI, 0.5, 7)
    assert call.sampling == {"temperature": 0.5}
    assert call.response["system_fingerprint"] == "f"
    assert call.span_ids == (f"{2:016x}", f"{1:016x}")


def test_parameters_of_a_wrapper_are_not_taken_for_those_that_were_sent() -> None:
    wrapper = gateway(2, tokens=[])
    (call,) = llm_calls([sdk(1, token_ids=[5]), wrapper])
    assert (call.sampling, call.temperature) == ({}, 1.0)


def test_a_wrapper_without_an_id_is_the_call_below_it() -> None:
    wrapper = sdk(1, None, library="wrapper")
    between = made(2, "chain", {}, parent=wrapper)
    assert seen_by(wrapper, between, sdk(3, parent=between), gateway(4)) == [[4, 3, 1]]


def test_a_call_below_without_an_id_is_the_wrapper() -> None:
    wrapper = sdk(1, "x", library="wrapper")
    assert seen_by(wrapper, sdk(2, None, parent=wrapper)) == [[2, 1]]


def test_a_wrapper_that_tries_again_is_the_try_that_was_answered() -> None:
    wrapper = sdk(1, None, library="wrapper", time=(1.0, 9.0))
    failed, answered = sdk(2, None, said=None, parent=wrapper, error="HTTP 500"), sdk(3, parent=wrapper)
    read = read_calls([wrapper, failed, answered])
    assert [[sighting.name for sighting in seen.sightings] for seen in read.seen] == [["sdk"], ["sdk", "wrapper"]]
    assert [seen.failure for seen in read.seen] == ["HTTP 500", None]


def test_two_answered_calls_below_one_wrapper_are_two_calls() -> None:
    wrapper = sdk(1, None, library="wrapper", said="B", time=(1.0, 9.0))
    below = [sdk(2, "x", said="A", parent=wrapper), sdk(3, "y", said="B", parent=wrapper)]
    assert seen_by(wrapper, *below) == [[2], [3, 1]]


def test_without_an_id_and_without_a_parent_the_same_answer_at_the_same_time_is_one_call() -> None:
    spans = [
        sdk(1, None, library="wrapper", time=(1.0, 4.0)),
        sdk(2, "x", time=(2.0, 3.0)),
        sdk(3, None, library="wrapper", time=(5.0, 8.0)),
        sdk(4, "y", time=(6.0, 7.0)),
    ]
    assert seen_by(*spans) == [[2, 1], [4, 3]]


@pytest.mark.parametrize(
    "other",
    [
        sdk(2, "x", said="B"),
        sdk(2, "x", time=(3.0, 4.0)),
        sdk(2, "x", said=""),
        sdk(2, "x", error="no"),
        sdk(2, "x", token_ids=[8]),
    ],
    ids=["said", "time", "nothing_said", "failed", "tokens"],
)
def test_another_answer_or_another_time_is_another_call(other: Span) -> None:
    assert seen_by(sdk(1, None, library="wrapper", token_ids=[9]), other) == [[1], [2]]


def test_calls_at_the_same_time_with_the_same_answer_are_matched_one_to_one() -> None:
    wrappers = [sdk(number, None, library="wrapper") for number in (1, 2, 3)]
    calls = [sdk(number, str(number)) for number in (4, 5, 6)]
    assert seen_by(*wrappers, *calls) == [[4, 1], [5, 2], [6, 3]]


def test_a_span_that_kept_no_answer_is_the_call_around_it() -> None:
    wrapper = sdk(1, None, said=None, library="wrapper")
    assert seen_by(wrapper, sdk(2, "x", parent=wrapper)) == [[2, 1]]
    (alone,) = read_calls([wrapper]).failed
    assert alone.sightings[0].silent


def left_early(number: int, response_id: str) -> Span:
    """What an SDK keeps of a stream that nobody read to its end."""
    span = sdk(number, response_id)
    span.attributes["input.value"] = json.dumps({"messages": HI, "stream": True})
    span.attributes["output.value"] = json.dumps({"id": response_id, "choices": [{"message": {"role": "assistant"}}]})
    return span


def test_a_stream_that_was_left_early_is_one_call() -> None:
    broken_off = gateway(2, "x", error="the client left")
    read = read_calls([left_early(1, "x"), broken_off])
    assert [seen.failure for seen in read.seen] == ["the client left"]
    assert seen_by(left_early(1, "x"), gateway(2, "x")) == [[2, 1]]
    assert seen_by(left_early(1, "y"), broken_off) == [[1], [2]]
    assert seen_by(sdk(1, "x", error="no"), gateway(2, "x")) == [[1], [2]]


def test_failures_at_the_same_time_are_one_failed_call() -> None:
    spans = [sdk(1, None, library="wrapper", said=None, error="a"), sdk(2, None, said=None, error="b")]
    assert seen_by(*spans) == [[2, 1]]
    assert read_calls(spans).calls == []


def test_a_request_that_is_repeated_after_a_failure_is_a_call_of_its_own() -> None:
    read = read_calls([gateway(1, None, error="HTTP 500"), gateway(2, "x")])
    assert [seen.failure for seen in read.seen] == ["HTTP 500", None]


def test_a_backend_that_repeats_its_response_id_loses_no_call() -> None:
    assert seen_by(gateway(1, tokens=[5]), gateway(2, tokens=[5])) == [[1], [2]]
    assert seen_by(gateway(1), gateway(2), sdk(3), sdk(4, said="B")) == [[1, 3], [2, 4]]
    assert seen_by(sdk(1, said="A"), sdk(2, said="B")) == [[1], [2]]


def test_of_repeated_ids_and_equal_answers_each_goes_to_the_call_at_its_time() -> None:
    calls = [gateway(number, tokens=[number], time=(number, number + 0.5)) for number in (1, 2, 3)]
    seen = [sdk(number + 3, time=(number, number + 0.4)) for number in (1, 2, 3)]
    assert seen_by(*calls, *seen) == [[1, 4], [2, 5], [3, 6]]
    late = [sdk(7 - number, time=(number, number + 0.4)) for number in (1, 2, 3)]
    assert seen_by(*calls, *late) == [[1, 6], [2, 5], [3, 4]]
    elsewhere = [sdk(number + 3, time=(number + 50, number + 51)) for number in (1, 2, 3)]
    assert seen_by(*calls, *elsewhere) == [[1, 4], [2, 5], [3, 6]]


def test_a_thousand_calls_of_one_id_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Seen] = []
    may_join = _Joining._may_join
    monkeypatch.setattr(
        _Joining, "_may_join", lambda self, each, group: compared.append(each) or may_join(self, each, group)
    )
    assert len(read_calls([gateway(number, tokens=[number]) for number in range(1, 1001)]).seen) == 1000
    assert len(compared) < 5_000


def test_a_library_that_writes_an_answer_twice_makes_one_call() -> None:
    assert seen_by(sdk(1), sdk(2)) == [[2, 1]]


@pytest.mark.parametrize("span", [gateway(1), sdk(1), sdk(1, None)], ids=["gateway", "sdk", "without_id"])
def test_a_span_that_comes_twice_is_one(span: Span) -> None:
    assert seen_by(span, span.model_copy()) == [[1]]


def test_attempts_share_no_call() -> None:
    other = gateway(2).model_copy(update={"attempt_id": "b"})
    assert seen_by(gateway(1), other) == [[1], [2]]


def test_each_choice_has_its_best_record() -> None:
    two = sdk(2, token_ids=[5])
    reply = json.loads(str(two.attributes["output.value"]))
    reply["choices"] *= 2
    two.attributes["output.value"] = json.dumps(reply)
    calls = llm_calls([gateway(1, tokens=[4]), two])
    assert [(call.choice, call.response_token_ids) for call in calls] == [(0, [4]), (1, [5])]


def test_parents_that_go_in_a_circle_end() -> None:
    one, two = made(1, "chain", {}), made(2, "chain", {})
    one.parent_id, two.parent_id = two.span_id, one.span_id
    assert seen_by(one, two, sdk(3, None, parent=one)) == [[3]]
    alone = sdk(4, None)
    alone.parent_id = alone.span_id
    assert seen_by(alone) == [[4]]


TRACE = [
    sdk(1, None, library="wrapper"),
    sdk(2, "x"),
    gateway(3, "x"),
    sdk(4, None, library="wrapper", said=None, error="a"),
    gateway(5, None, error="b"),
    sdk(6, None, library="wrapper", said="B"),
    gateway(7, "same", said="B"),
    gateway(7, "same", said="B", tokens=[9]).model_copy(update={"span_id": "f" * 16}),
    sdk(8, "same", said="B"),
]


@settings(deadline=None)
@given(st.permutations(TRACE))
def test_the_order_in_which_spans_come_is_of_no_matter(spans: list[Span]) -> None:
    assert read_calls(spans) == read_calls(TRACE)


@settings(deadline=None)
@given(st.permutations(TRACE))
def test_every_sighting_belongs_to_exactly_one_call(spans: list[Span]) -> None:
    seen = [sighting.span_id for call in read_calls(spans).seen for sighting in call.sightings]
    assert sorted(seen) == sorted(span.span_id for span in spans)
