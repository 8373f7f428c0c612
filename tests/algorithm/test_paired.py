from __future__ import annotations

import random
from statistics import correlation

import pytest

from agentlightning.algorithm.paired import PairedDifference, mean_intervals, paired_difference, paired_differences
from agentlightning.errors import ConfigurationError

Pairs = list[tuple[list[float], list[float]]]


def repeats(tasks: int, before: float, after: float, alike: float, count: int = 200) -> Pairs:
    """Evaluations of two agents that solve tasks with these rates; a share of the tasks decides alike for both."""
    rng = random.Random(7)
    pairs: Pairs = []
    for _ in range(count):
        first = [rng.random() for _ in range(tasks)]
        second = [luck if rng.random() < alike else rng.random() for luck in first]
        pairs.append(([float(luck < before) for luck in first], [float(luck < after) for luck in second]))
    return pairs


def test_ten_points_are_found_in_four_of_five_repeats() -> None:
    pairs = repeats(200, 0.5, 0.6, alike=0.75)
    before, after = ([reward for pair in pairs for reward in pair[place]] for place in (0, 1))
    assert correlation(before, after) == pytest.approx(0.61, abs=0.02)
    verdicts = [found.verdict for found in paired_differences(pairs)]
    assert verdicts.count("better") >= 160
    assert "worse" not in verdicts


@pytest.mark.parametrize(("tasks", "rate"), [(200, 0.5), (12, 0.5), (60, 0.1)])
def test_equals_are_seldom_called_better(tasks: int, rate: float) -> None:
    verdicts = [found.verdict for found in paired_differences(repeats(tasks, rate, rate, alike=0.3))]
    assert verdicts.count("better") <= 10
    assert verdicts.count("worse") <= 10


def test_interval_holds_the_true_difference_nineteen_times_in_twenty() -> None:
    found = paired_differences(repeats(100, 0.3, 0.5, alike=0.0))
    assert 183 <= sum(each.low <= 0.2 <= each.high for each in found) <= 198


def test_clear_improvement_is_better_and_its_mirror_worse() -> None:
    before, after = [0.0] * 80 + [1.0] * 20, [1.0] * 90 + [0.0] * 10
    found, mirror = paired_differences([(before, after), (after, before)])
    assert (found.verdict, mirror.verdict) == ("better", "worse")
    assert (found.mean, mirror.mean) == pytest.approx((0.7, -0.7))
    assert found.changed == mirror.changed == 90


@pytest.mark.parametrize(("changed", "verdict"), [(5, "no evidence of a difference"), (6, "better")])
def test_few_changes_are_no_evidence_however_clear(changed: int, verdict: str) -> None:
    assert paired_difference([0.0] * changed, [1.0] * changed).verdict == verdict


def test_interval_with_0_at_its_end_is_no_evidence() -> None:
    assert PairedDifference(0.1, 0.0, 0.2, changed=50).verdict == "no evidence of a difference"


def test_the_same_results_have_the_same_interval_alone_and_beside_others() -> None:
    [pair, *others] = repeats(30, 0.4, 0.6, alike=0.2, count=3)
    assert paired_difference(*pair) == paired_differences([*others, pair])[-1]


def test_interval_of_a_mean_is_around_it_and_wider_with_fewer_tasks() -> None:
    [many] = mean_intervals([[0.0, 1.0] * 40])
    [few] = mean_intervals([[0.0, 1.0] * 4])
    assert few.low < many.low < 0.5 < many.high < few.high
    assert few.mean == many.mean == 0.5


@pytest.mark.parametrize(("before", "after"), [([1.0], [1.0]), ([1.0, 0.0], [1.0])])
def test_results_that_are_no_pairs_are_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="at least two tasks"):
        paired_difference(before, after)
