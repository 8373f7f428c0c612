from __future__ import annotations

import random

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.evaluation import paired_difference


def test_clear_improvement_is_better_and_its_mirror_worse() -> None:
    before, after = [0.0] * 80 + [1.0] * 20, [1.0] * 90 + [0.0] * 10
    assert paired_difference(before, after).verdict == "better"
    assert paired_difference(after, before).verdict == "worse"
    assert paired_difference(before, after).mean == pytest.approx(0.7)


def test_interval_holds_the_true_difference_nineteen_times_in_twenty() -> None:
    rng = random.Random(0)
    covered = 0
    for _ in range(1000):
        before = [float(rng.random() < 0.3) for _ in range(200)]
        after = [float(rng.random() < 0.5) for _ in range(200)]
        found = paired_difference(before, after)
        covered += found.low <= 0.2 <= found.high
    assert 925 <= covered <= 975


def test_equal_results_are_no_evidence() -> None:
    assert paired_difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0]).verdict == "no evidence of a difference"


@pytest.mark.parametrize(("before", "after"), [([1.0], [1.0]), ([1.0, 0.0], [1.0])])
def test_results_that_are_no_pairs_are_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="pairs of at least two"):
        paired_difference(before, after)
