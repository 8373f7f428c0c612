"""The learner's gradient is that of a loop which looks at one token at a time, however the rows are cut and packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentlightning.learner import Learner, Normalization, model as learner_model, step as learner_step
from agentlightning.types import TrainingRow

MakeModel = Callable[[], PreTrainedModel]
CLIP = 0.2
NORMALIZATIONS: list[Normalization] = ["token", "rollout"]


def naive_gradient(
    model: PreTrainedModel, rows: Sequence[TrainingRow], advantages: Mapping[str, float], normalization: Normalization
) -> Tensor:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.rollout_id] = counts.get(row.rollout_id, 0) + sum(row.mask)
    loss = torch.tensor(0.0)
    for row in rows:
        advantage = advantages[row.rollout_id]
        for i, sampled in enumerate(row.mask):
            if not sampled:
                continue
            logits_V = model(torch.tensor([row.token_ids[:i]])).logits[0, -1] / row.temperatures[i]
            ratio = (logits_V.log_softmax(-1)[row.token_ids[i]] - row.logprobs[i]).exp()
            gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
            share = sum(counts.values()) if normalization == "token" else len(counts) * counts[row.rollout_id]
            loss = loss - gain / share
    loss.backward()
    return flat_gradient(model)


def learned_gradient(
    model: PreTrainedModel,
    rows: Sequence[TrainingRow],
    advantages: Mapping[str, float],
    normalization: Normalization = "token",
    micro_batch_tokens: int = 4096,
) -> Tensor:
    learner = Learner(
        model,
        clip_ratio=CLIP,
        max_grad_norm=float("inf"),
        normalization=normalization,
        micro_batch_tokens=micro_batch_tokens,
    )
    learner.step(rows, advantages)
    return flat_gradient(model)


def flat_gradient(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def same(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).norm() < 1e-4 * first.norm())


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradient_is_the_naive_one(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float], normalization: Normalization
) -> None:
    truth = naive_gradient(make_model(), rows, advantages, normalization)
    assert truth.norm() > 0.01
    assert same(truth, learned_gradient(make_model(), rows, advantages, normalization))


def test_the_truth_check_notices_a_mask_shifted_by_one(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(sampled_BL: Tensor) -> Tensor:
        return sampled_BL

    monkeypatch.setattr(learner_model, "predictors", shifted)
    truth = naive_gradient(make_model(), rows, advantages, "token")
    assert not same(truth, learned_gradient(make_model(), rows, advantages))


def test_the_truth_check_notices_a_flipped_advantage(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = learner_step.clipped_loss

    def flipped(
        logprobs_N: Tensor, recorded_N: Tensor, advantages_N: Tensor, weights_N: Tensor, clip_ratio: float
    ) -> object:
        return right(logprobs_N, recorded_N, -advantages_N, weights_N, clip_ratio)

    monkeypatch.setattr(learner_step, "clipped_loss", flipped)
    truth = naive_gradient(make_model(), rows, advantages, "token")
    assert not same(truth, learned_gradient(make_model(), rows, advantages))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_splitting_a_rollout_into_more_rows_changes_nothing(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float], normalization: Normalization
) -> None:
    whole = learned_gradient(make_model(), rows, advantages, normalization)
    parts = [part for row in rows for part in split_into_turns(row)]
    assert len(parts) == 2 * len(rows)
    assert same(whole, learned_gradient(make_model(), parts, advantages, normalization))


def split_into_turns(row: TrainingRow) -> list[TrainingRow]:
    """One row for each turn of the model: the history up to it, with only that turn's tokens marked."""
    ends = [i for i in range(1, len(row.mask) + 1) if row.mask[i - 1] and (i == len(row.mask) or not row.mask[i])]
    starts = [0, *ends[:-1]]
    return [
        replace(
            row,
            token_ids=row.token_ids[:end],
            mask=[sampled and i >= start for i, sampled in enumerate(row.mask[:end])],
            logprobs=row.logprobs[:end],
            temperatures=row.temperatures[:end],
            weights_versions=row.weights_versions[:end],
        )
        for start, end in zip(starts, ends, strict=True)
    ]


@pytest.mark.parametrize("micro_batch_tokens", [1, 20, 45])
def test_packing_rows_differently_changes_nothing(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float], micro_batch_tokens: int
) -> None:
    at_once = learned_gradient(make_model(), rows, advantages)
    packed = learned_gradient(make_model(), rows[::-1], advantages, micro_batch_tokens=micro_batch_tokens)
    assert same(at_once, packed)
