"""A brief answer says as much as one that repeats the spans."""

import pytest
from hypothesis import given, strategies as st

from agentlightning.store.brief import decode_brief, encode_brief
from agentlightning.types import Span


def span(number: int, **extra: bool) -> Span:
    ids = {"rollout_id": "ro", "attempt_id": f"at-{number % 3}", "trace_id": "0" * 32, "span_id": f"{number:016x}"}
    made = Span.from_attributes(attributes={}, **ids)
    return made.model_copy(update=extra)


@given(
    sent=st.lists(st.integers(0, 5), max_size=8).map(lambda numbers: [span(number) for number in numbers]),
    chosen=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=8),
)
def test_what_a_brief_answer_names_is_what_was_stored(sent: list[Span], chosen: list[tuple[int, bool]]) -> None:
    stored = [
        sent[number].model_copy(update={"late": True}) if late else sent[number]
        for number, late in chosen
        if number < len(sent)
    ]
    assert decode_brief(encode_brief(stored, sent), sent) == stored


def test_an_answer_that_holds_spans_is_not_brief() -> None:
    assert decode_brief(b'[{"rollout_id":"ro"}]', [span(1)]) is None


@pytest.mark.parametrize("body", [b"[[1,false]]", b"{}", b"[[0]]", b"junk"])
def test_an_answer_to_something_else_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode_brief(body, [span(1)])
