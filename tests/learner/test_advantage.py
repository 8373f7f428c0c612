from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from agentlightning.errors import ConfigurationError
from agentlightning.learner import group_advantages, token_weights
from agentlightning.types import TrainingRow

# Multiples of 1/64, so that shifting them is exact and equal rewards stay equal.
rewards = st.integers(-640, 640).map(lambda n: n / 64)
groups = st.lists(rewards, min_size=1, max_size=9)


def test_advantages_are_distances_from_the_mean_in_standard_deviations() -> None:
    assert group_advantages([[0, 0, 0, 1]]) == [pytest.approx([-0.57735, -0.57735, -0.57735, 1.73205], abs=1e-4)]
    assert group_advantages([[0, 0, 0, 1]], normalize_std=False) == [pytest.approx([-0.25, -0.25, -0.25, 0.75])]


@given(groups, rewards)
def test_a_group_gives_as_much_as_it_takes_whatever_its_level(group: list[float], shift: float) -> None:
    (advantages,) = group_advantages([group])
    (shifted,) = group_advantages([[reward + shift for reward in group]])
    assert sum(advantages) == pytest.approx(0, abs=1e-6)
    assert shifted == pytest.approx(advantages, abs=1e-6)


@given(groups)
def test_better_rewards_have_better_advantages(group: list[float]) -> None:
    (advantages,) = group_advantages([group])
    for first, first_advantage in zip(group, advantages, strict=True):
        for second, second_advantage in zip(group, advantages, strict=True):
            assert (first < second) == (first_advantage < second_advantage)


@given(rewards, st.integers(1, 9), st.booleans())
def test_equal_rewards_say_nothing(reward: float, size: int, normalize_std: bool) -> None:
    assert group_advantages([[reward] * size], normalize_std) == [[0.0] * size]


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_rewards_that_are_no_numbers_are_refused(reward: float) -> None:
    with pytest.raises(ConfigurationError, match="finite"):
        group_advantages([[0.0, reward]])


def row(rollout_id: str, sampled: int) -> TrainingRow:
    length = sampled + 1
    return TrainingRow(
        rollout_id=rollout_id,
        attempt_id="at-1",
        token_ids=[0] * length,
        mask=[False] + [True] * sampled,
        logprobs=[0.0] * length,
        temperatures=[1.0] * length,
        weights_versions=[0] * length,
    )


sampled_rows = st.lists(st.builds(row, st.sampled_from("abc"), st.integers(0, 7)), min_size=1)


@given(sampled_rows)
def test_token_weights_are_equal_for_tokens_or_for_rollouts(rows: list[TrainingRow]) -> None:
    by_token, by_rollout = token_weights(rows, "token"), token_weights(rows, "rollout")
    sampled = {id: sum(sum(row.mask) for row in rows if row.rollout_id == id) for id in by_token}
    assert len(set(by_token.values())) <= 1
    assert [by_rollout[id] * count for id, count in sampled.items()] == pytest.approx(
        [1 / max(1, len(sampled))] * len(sampled)
    )
    assert sum(by_token[id] * count for id, count in sampled.items()) == pytest.approx(1 if sampled else 0)
