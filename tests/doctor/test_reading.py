"""How a report reads calls that no run of an agent here leaves behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentlightning.adapter.prefix_break import BreakKind, PrefixBreak
from agentlightning.adapter.rewards import RewardMatchPolicy
from agentlightning.doctor.diagnosis import _Reader, _rows_of
from agentlightning.doctor.harness import Observation
from agentlightning.doctor.tokens import encode
from agentlightning.types import LLMCall, TrainingRow

NOTHING = Observation(
    spans=[], failure=None, hung=False, requests=0, unknown_paths=[], uninstrumented=[], contacted=[], dropped_spans={}
)
CALL = LLMCall(
    rollout_id="ro",
    attempt_id="at",
    sequence_id=1,
    start_time=0.0,
    end_time=1.0,
    prompt_token_ids=encode("ask", pairs=False),
    response_token_ids=encode("yes"),
    source="gateway",
    span_id="0",
)


def row(trained: bool) -> TrainingRow:
    tokens = CALL.prompt_token_ids + CALL.response_token_ids
    answer = [trained] * len(CALL.response_token_ids)
    numbers = [0.0] * len(tokens)
    return TrainingRow(
        rollout_id="ro",
        attempt_id="at",
        token_ids=tokens,
        mask=[False] * len(CALL.prompt_token_ids) + answer,
        logprobs=numbers,
        temperatures=numbers,
        weights_versions=[-1] * len(tokens),
    )


@pytest.mark.parametrize(
    ("source", "previous", "known"),
    [("gateway", "gateway", True), ("openinference", "gateway", False), ("gateway", "openinference", False)],
)
def test_tokens_have_a_text_only_where_the_scripted_model_named_them(source: str, previous: str, known: bool) -> None:
    reader = _Reader(NOTHING, None, RewardMatchPolicy.FIRST_OCCURRENCE, exact_text=True)
    reader._numbers = {"0": 1}
    found = reader._break(
        PrefixBreak(
            kind=BreakKind.RETOKENISATION,
            call=replace(CALL, source=source, prompt_token_ids=encode("asks", pairs=False)),
            row=0,
            previous=replace(CALL, source=previous),
            position=3,
            in_answer=False,
        )
    )
    assert (found.byte == 3, found.before == "ask", found.found == ["s"]) == (known,) * 3


def test_an_answer_is_in_a_row_that_trains_on_it_and_in_no_other() -> None:
    class Call:
        first = CALL
        answers = (CALL,)

    assert _rows_of([Call()], [row(trained=False), row(trained=True)]) == {"0": [2]}  # type: ignore[list-item]
