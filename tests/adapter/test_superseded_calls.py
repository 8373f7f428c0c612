"""An answer that the agent did not get, and asked for again, is kept and not trained on."""

from __future__ import annotations

import pytest
from spans import make_call

from agentlightning.adapter import TracerTraceToTriplet, llm_calls
from agentlightning.adapter.llm_call import read_calls
from agentlightning.types import Span
from agentlightning.types.llm_call_span import SUPERSEDES


def repeats(span: Span, other: object) -> Span:
    return span.model_copy(update={"attributes": span.attributes | {SUPERSEDES: other}})


def test_a_superseded_call_is_among_the_failed() -> None:
    spans = [make_call("lost", 0), repeats(make_call("got", 1), "lost"), make_call("next", 2)]
    reading = read_calls(spans)
    assert [call.span_id for call in reading.calls] == ["got", "next"]
    (failed,) = reading.failed
    assert failed.sightings[0].span_id == "lost"
    assert failed.failure == "the agent did not get the answer and asked again"
    assert [triplet.response["token_ids"] for triplet in TracerTraceToTriplet().adapt(spans)] == [[2], [3]]


def test_of_a_chain_the_last_call_counts() -> None:
    spans = [make_call("a", 0), repeats(make_call("b", 1), "a"), repeats(make_call("c", 2), "b")]
    assert [call.span_id for call in llm_calls(spans)] == ["c"]


@pytest.mark.parametrize("other", ["nobody", 7, ["lost"]], ids=repr)
def test_whoever_names_no_call_supersedes_none(other: object) -> None:
    assert len(llm_calls([make_call("lost", 0), repeats(make_call("got", 1), other)])) == 2


def test_another_attempt_supersedes_nothing_here() -> None:
    spans = [make_call("lost", 0), repeats(make_call("got", 1, attempt="b"), "lost")]
    assert len(llm_calls(spans)) == 2
