from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings, strategies as st

from agentlightning.errors import InvalidRequest
from agentlightning.inference import SamplingParams
from agentlightning.inference.sampling import BatchSampling

VOCABULARY = 17
CPU = torch.device("cpu")

params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, VOCABULARY, 100]),
)
rows = st.lists(
    st.tuples(params, st.integers(0, 2**32), st.floats(0, 1, exclude_max=True, width=32)), min_size=1, max_size=5
)


def logits_of(seed: int) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(0, 2) for _ in range(VOCABULARY)]


def distribution(logits: list[float], p: SamplingParams) -> dict[int, float]:
    """The probabilities of the tokens that may be drawn, one step at a time."""
    weights = {token: math.exp(logit / (p.temperature or 1.0)) for token, logit in enumerate(logits)}
    if p.temperature == 0:
        total = sum(weights.values())
        best = max(weights, key=lambda token: weights[token])
        return {best: weights[best] / total}
    ranked = sorted(weights, key=lambda token: -weights[token])[: p.top_k or VOCABULARY]
    total = sum(weights[token] for token in ranked)
    kept, reached = [], 0.0
    for token in ranked:
        kept.append(token)
        reached += weights[token] / total
        if p.top_p < 1 and reached >= p.top_p:
            break
    total = sum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept}


@settings(deadline=None, max_examples=150)
@given(rows)
def test_each_row_draws_from_its_own_distribution(batch: list[tuple[SamplingParams, int, float]]) -> None:
    logits_BV = torch.tensor([logits_of(seed) for _, seed, _ in batch])
    sampling = BatchSampling([p for p, _, _ in batch], CPU)
    tokens, logprobs = sampling.sample(logits_BV, [uniform for _, _, uniform in batch])
    for (p, seed, uniform), token, logprob in zip(batch, tokens, logprobs, strict=True):
        allowed = distribution(logits_of(seed), p)
        assert math.exp(logprob) == pytest.approx(allowed[token], rel=1e-4)
        if p.temperature > 0:
            below = sum(allowed[other] for other in allowed if other < token)
            assert below - 1e-5 <= uniform <= below + allowed[token] + 1e-5


@pytest.mark.parametrize(
    "p", [SamplingParams(), SamplingParams(temperature=0.6), SamplingParams(top_k=5), SamplingParams(top_p=0.8)]
)
def test_frequencies_follow_the_probabilities(p: SamplingParams) -> None:
    draws = 20_000
    draw = random.Random(5)
    logits_BV = torch.tensor([logits_of(3)]).expand(draws, -1)
    tokens, _ = BatchSampling([p] * draws, CPU).sample(logits_BV, [draw.random() for _ in range(draws)])
    expected = distribution(logits_of(3), p)
    assert set(tokens) <= set(expected)
    chi_square = sum(
        (tokens.count(token) - draws * probability) ** 2 / (draws * probability)
        for token, probability in expected.items()
    )
    # The 99.9 % point of chi-square with at most 16 degrees of freedom is 39.3.
    assert chi_square < 39.3


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": 1e-9},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_tokens": 0},
        {"stop": ("a", "")},
    ],
)
def test_parameters_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(values))):
        SamplingParams(**values)
