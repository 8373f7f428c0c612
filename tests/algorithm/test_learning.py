"""Learning truth: the demo's policy gets good in twenty steps, and only if every part of training is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch

import agentlightning as agl
from agentlightning.algorithm import group_sampling, grpo
from agentlightning.demo.agent import load_agent
from agentlightning.demo.policy import CHECKPOINT
from agentlightning.demo.world import train_tasks

LEARNED = 0.6
"""Mean reward of steps 16 to 20 that right training passes easily (about 0.8) and wrong training never reaches."""


def mean_reward_of_steps_16_to_20() -> float:
    torch.set_num_threads(1)
    rewards: list[float] = []

    def collect(record: Mapping[str, Any]) -> None:
        rewards.append(record["reward"])

    trainer = agl.Trainer(
        algorithm=agl.GRPO(CHECKPOINT, device="cpu", steps=20, on_metrics=collect),
        n_runners=8,
        runner=agl.LitAgentRunner(agl.OtelTracer(), max_concurrency=8),
    )
    trainer.fit(load_agent(), train_tasks())
    assert len(rewards) == 20
    return fmean(rewards[15:])


@pytest.mark.timeout(300)
def test_policy_learns_in_twenty_steps() -> None:
    assert mean_reward_of_steps_16_to_20() >= LEARNED


@pytest.mark.soak
def test_learning_is_not_found_where_the_sign_of_the_advantage_is_flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    right = grpo.group_advantages

    def flipped(rewards: Sequence[Sequence[float]]) -> list[list[float]]:
        return [[-advantage for advantage in group] for group in right(rewards)]

    monkeypatch.setattr(grpo, "group_advantages", flipped)
    assert mean_reward_of_steps_16_to_20() < LEARNED


@pytest.mark.soak
def test_learning_is_not_found_where_the_mask_is_shifted_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    right = group_sampling.merge_calls

    def shifted(calls: Sequence[agl.LLMCall]) -> group_sampling.Trajectories:
        merged = right(calls)
        return replace(merged, rows=[shift(row) for row in merged.rows])

    monkeypatch.setattr(group_sampling, "merge_calls", shifted)
    assert mean_reward_of_steps_16_to_20() < LEARNED


def shift(row: agl.TrainingRow) -> agl.TrainingRow:
    """Train on the token before each sampled one."""
    return replace(
        row,
        mask=[*row.mask[1:], False],
        logprobs=[*row.logprobs[1:], 0.0],
        temperatures=[*row.temperatures[1:], 1.0],
        weights_versions=[*row.weights_versions[1:], -1],
    )
