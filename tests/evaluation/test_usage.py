from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.evaluation import Prices, Usage
from agentlightning.evaluation.usage import usage_of
from agentlightning.types import Span
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call


def call(
    number: int, prompt: Sequence[int], sampled: Sequence[Sequence[int]], said: dict[str, Any] | None = None
) -> Span:
    message = {"role": "assistant", "content": "hi"}
    captured = CapturedCall(
        request=json.dumps({"model": "m", "messages": []}),
        model="m",
        prompt_token_ids=list(prompt),
        choices=[
            CapturedChoice(token_ids=list(each), logprobs=None, finish_reason="stop", message=message)
            for each in sampled
        ],
        response_id=f"answer-{number}",
        response={"usage": said} if said else {},
    )
    return Span.from_attributes(
        attributes=encode_call(captured),
        rollout_id="r",
        attempt_id="a",
        sequence_id=number,
        name="llm_call",
        span_id=f"{number:016x}",
        start_time=float(number),
        end_time=number + 1.0,
    )


def test_backend_says_what_a_call_took() -> None:
    openai = call(1, [1], [[2]], {"prompt_tokens": 10, "completion_tokens": 20})
    anthropic = call(2, [1], [[2]], {"input_tokens": 1, "output_tokens": 3})
    assert usage_of([openai, anthropic]) == Usage(2, 11, 23)


def test_without_its_word_the_tokens_count_and_answers_share_their_prompt() -> None:
    assert usage_of([call(1, [1, 2, 3], [[4, 5], [6]])]) == Usage(1, 3, 3)
    said = {"prompt_tokens": 3, "completion_tokens": 30}
    assert usage_of([call(1, [1, 2, 3], [[4, 5], [6]], said)]) == Usage(1, 3, 30)


def test_call_that_nobody_counted_is_said_to_be_so() -> None:
    assert usage_of([call(1, [], [[]])]) == Usage(calls=1, uncounted=1)
    assert usage_of([]) == Usage()


def test_price_is_of_a_million_tokens() -> None:
    assert Prices(0.5, 2.0).cost(Usage(3, 2_000_000, 500_000)) == pytest.approx(2.0)


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_what_is_no_price_is_refused(price: float) -> None:
    with pytest.raises(ConfigurationError, match="prices must be at least 0"):
        Prices(1.0, price)
