"""Learning truth: the demo's policy gets good in twenty steps, and only if every part of training is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
"""Mean reward of steps 16 to 20 that right training passes easily (0.85; sign flipped: 0.02; mask shifted: 0.54)."""

ON_POLICY = 1e-3
"""Distance of the mean probability ratio from 1 that rounding explains: each step learns from its own samples."""


@dataclass(frozen=True)
class Training:
    rewards: list[float]
    ratios: list[float]

    @property
    def learned(self) -> bool:
        return len(self.rewards) == 20 and fmean(self.rewards[15:]) >= LEARNED

    @property
    def on_policy(self) -> bool:
        return all(abs(ratio - 1.0) <= ON_POLICY for ratio in self.ratios)


def train(steps: int) -> Training:
    torch.set_num_threads(1)
    records: list[Mapping[str, Any]] = []
    trainer = agl.Trainer(
        algorithm=agl.GRPO(CHECKPOINT, device="cpu", steps=steps),
        on_metrics=records.append,
        n_runners=8,
        runner=agl.LitAgentRunner(agl.OtelTracer(), max_concurrency=8),
    )
    trainer.fit(load_agent(), train_tasks())
    return Training([record["reward"] for record in records], [record["mean_ratio"] for record in records])


@pytest.mark.timeout(300)
def test_policy_learns_in_twenty_steps_from_its_own_samples() -> None:
    training = train(20)
    assert training.on_policy
    assert training.learned


@pytest.mark.soak
def test_learning_is_not_found_where_the_sign_of_the_advantage_is_flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    right = grpo.group_advantages

    def flipped(rewards: Sequence[Sequence[float]]) -> list[list[float]]:
        return [[-advantage for advantage in group] for group in right(rewards)]

    monkeypatch.setattr(grpo, "group_advantages", flipped)
    assert not train(20).learned


def test_mask_shifted_by_one_shows_in_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    right = group_sampling.merge_calls

    def shifted(calls: Sequence[agl.LLMCall]) -> group_sampling.Trajectories:
        merged = right(calls)
        return replace(merged, rows=[shift(row) for row in merged.rows])

    monkeypatch.setattr(group_sampling, "merge_calls", shifted)
    assert not train(1).on_policy


def shift(row: agl.TrainingRow) -> agl.TrainingRow:
    """Train on the token before each sampled one."""
    return replace(
        row,
        mask=[*row.mask[1:], False],
        logprobs=[*row.logprobs[1:], 0.0],
        temperatures=[*row.temperatures[1:], 1.0],
        weights_versions=[*row.weights_versions[1:], -1],
    )
