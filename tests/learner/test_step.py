from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from agentlightning.errors import ConfigurationError, ModelError
from agentlightning.learner import Learner
from agentlightning.types import TrainingRow

MakeModel = Callable[[], PreTrainedModel]


def weights(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def on_policy(learner: Learner, rows: list[TrainingRow]) -> list[TrainingRow]:
    return [replace(row, logprobs=found) for row, found in zip(rows, learner.logprobs(rows), strict=True)]


def test_tokens_of_good_rollouts_become_likelier_and_of_bad_ones_rarer(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float]
) -> None:
    learner = Learner(make_model(), learning_rate=1e-3, warmup_steps=0)
    rows = on_policy(learner, rows)
    before = [sum(scores) for scores in learner.logprobs(rows)]
    for _ in range(5):
        learner.step(rows, advantages)
    after = [sum(scores) for scores in learner.logprobs(rows)]
    gain = sum((new - old) * advantages[row.rollout_id] for row, old, new in zip(rows, before, after, strict=True))
    assert gain > 0.1


def test_metrics_of_a_step_on_the_present_policy(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float]
) -> None:
    learner = Learner(make_model())
    metrics = learner.step(on_policy(learner, rows), advantages)
    assert metrics.mean_ratio == pytest.approx(1, abs=1e-5)
    assert metrics.approx_kl == pytest.approx(0, abs=1e-6)
    assert metrics.clip_fraction == 0
    assert metrics.rows == len(rows)
    assert metrics.tokens == sum(sum(row.mask) for row in rows)
    assert metrics.trained_tokens == metrics.tokens - sum(rows[2].mask)
    assert metrics.loss == pytest.approx(
        -sum(sum(row.mask) * advantages[row.rollout_id] for row in rows) / metrics.tokens, abs=1e-5
    )


def test_logprobs_stand_at_their_tokens(make_model: MakeModel, rows: list[TrainingRow]) -> None:
    found = Learner(make_model(), micro_batch_tokens=30).logprobs(rows)
    for row, scores in zip(rows, found, strict=True):
        assert [score != 0 for score in scores] == row.mask
        assert scores == pytest.approx(Learner(make_model()).logprobs([row])[0], abs=1e-5)


def test_each_step_is_a_version_and_the_rate_warms_up(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float]
) -> None:
    learner = Learner(make_model(), learning_rate=1e-3, warmup_steps=4)
    rates = [learner.step(rows, advantages).learning_rate for _ in range(6)]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])
    assert learner.version == 6


def test_rollouts_without_advantage_change_nothing(make_model: MakeModel, rows: list[TrainingRow]) -> None:
    learner = Learner(make_model())
    before = weights(learner.model)
    metrics = learner.step(rows, {row.rollout_id: 0.0 for row in rows})
    assert torch.equal(weights(learner.model), before)
    assert (metrics.loss, metrics.grad_norm, metrics.trained_tokens, learner.version) == (0, 0, 0, 1)


def test_a_gradient_that_is_not_finite_changes_no_weight(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float]
) -> None:
    learner = Learner(make_model())
    before = weights(learner.model)
    broken = replace(rows[1], logprobs=[float("-inf") if sampled else 0.0 for sampled in rows[1].mask])
    with pytest.raises(ModelError, match="weights were not changed"):
        learner.step([rows[0], broken], advantages)
    assert torch.equal(weights(learner.model), before)
    assert learner.version == 0
    learner.step(rows, advantages)
    assert torch.isfinite(weights(learner.model)).all()


def test_every_rollout_needs_an_advantage(make_model: MakeModel, rows: list[TrainingRow]) -> None:
    with pytest.raises(ConfigurationError, match=r"\['b', 'c', 'd', 'e', 'f'\]"):
        Learner(make_model()).step(rows, {"a": 1.0})


def test_state_dict_is_what_another_model_loads(
    make_model: MakeModel, rows: list[TrainingRow], advantages: dict[str, float]
) -> None:
    learner = Learner(make_model())
    learner.step(rows, advantages)
    other = make_model()
    other.load_state_dict(learner.state_dict())
    assert torch.equal(weights(other), weights(learner.model))
