"""The learner: one gradient step from the rows and advantages of a batch of rollouts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentlightning.errors import ConfigurationError, ModelError
from agentlightning.learner.advantage import Normalization, token_weights
from agentlightning.learner.batch import micro_batches, to_batch
from agentlightning.learner.loss import ClippedLoss, clipped_loss
from agentlightning.learner.model import sampled_logprobs
from agentlightning.types.llm_call import TrainingRow


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What one step did.

    Attributes:
        loss: The clipped surrogate, normalised over all sampled tokens.
        grad_norm: Norm of the gradient before clipping.
        learning_rate: The rate this step used.
        mean_ratio: Mean probability ratio of the trained tokens; 1.0 while samples are of the present policy.
        clip_fraction: Share of the trained tokens whose gradient was clipped away.
        approx_kl: Mean estimate of the divergence from the policy that sampled to the present one, in nats.
        rows: Rows given.
        tokens: Sampled tokens in them.
        trained_tokens: Those with an advantage other than 0.
        seconds: Wall-clock time the step took.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    mean_ratio: float
    clip_fraction: float
    approx_kl: float
    rows: int
    tokens: int
    trained_tokens: int
    seconds: float


class Learner:
    """Trains a model in place with AdamW, one update a step.

    Args:
        model: The model, as `load_model` gives it.
        learning_rate: Reached after the warm-up, then constant.
        warmup_steps: Steps over which the rate rises linearly from `learning_rate / warmup_steps`.
        max_grad_norm: Gradients with a larger norm are scaled down to it.
        clip_ratio: How far a token's probability ratio may move from 1 before its gradient is clipped.
        normalization: What the loss is a mean of, see `Normalization`.
        weight_decay: AdamW's decoupled weight decay.
        micro_batch_tokens: Tokens, padding included, that pass through the model at once; changes speed and memory,
            nothing else. None takes 1024 on a CPU, whose caches like it (more was 40 % slower), and 8192 elsewhere.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        learning_rate: float = 2e-4,
        warmup_steps: int = 5,
        max_grad_norm: float = 1.0,
        clip_ratio: float = 0.2,
        normalization: Normalization = "token",
        weight_decay: float = 0.0,
        micro_batch_tokens: int | None = None,
    ) -> None:
        self.model = model
        self._max_grad_norm = max_grad_norm
        self._clip_ratio = clip_ratio
        self._normalization: Normalization = normalization
        self._micro_batch_tokens = micro_batch_tokens or (1024 if model.device.type == "cpu" else 8192)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps))
        )

    @property
    def version(self) -> int:
        """Version of the weights: how many steps were taken."""
        return self._schedule.last_epoch

    def step(self, rows: Sequence[TrainingRow], advantages: Mapping[str, float]) -> StepMetrics:
        """Update the weights once.

        Args:
            rows: All rows of the step, in any order. Those whose rollout has advantage 0 have no gradient and are not
                computed, but they count in the normalisation.
            advantages: Advantage of every rollout among the rows.

        Raises:
            ConfigurationError: A rollout without advantage, or a row that cannot be trained on.
            ModelError: The loss or its gradient is not finite; the weights are as they were.
        """
        started = time.perf_counter()
        missing = {row.rollout_id for row in rows} - advantages.keys()
        if missing:
            raise ConfigurationError(f"no advantage was given for rollouts {sorted(missing)}")
        trained = [row for row in rows if advantages[row.rollout_id] != 0]
        self._optimizer.zero_grad()
        sums = self._backward(trained, advantages, token_weights(rows, self._normalization))
        learning_rate = float(self._schedule.get_last_lr()[0])
        grad_norm = self._update(sums[0])
        trained_tokens = sum(sum(row.mask) for row in trained)
        means = [value / max(1, trained_tokens) for value in sums[1:]]
        return StepMetrics(
            loss=sums[0],
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            mean_ratio=means[0],
            clip_fraction=means[1],
            approx_kl=means[2],
            rows=len(rows),
            tokens=sum(sum(row.mask) for row in rows),
            trained_tokens=trained_tokens,
            seconds=time.perf_counter() - started,
        )

    def logprobs(self, rows: Sequence[TrainingRow]) -> list[list[float]]:
        """Score sampled tokens under the present weights, at the temperatures they were sampled at.

        Returns:
            For each row a list as long as its tokens: log-probabilities of sampled tokens, 0.0 elsewhere.
        """
        scores = [[0.0] * len(row.token_ids) for row in rows]
        for indices in micro_batches(rows, self._micro_batch_tokens):
            batch = to_batch([rows[index] for index in indices], self.model.device)
            with torch.no_grad():
                found = iter(_floats(sampled_logprobs(self.model, batch)))
            for index in indices:
                scores[index] = [next(found) if sampled else 0.0 for sampled in rows[index].mask]
        return scores

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights themselves, not copies: the next step changes them."""
        return {name: weights.detach() for name, weights in self.model.state_dict().items()}

    def training_state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the weights: the optimiser's moments and the schedule."""
        return {"optimizer": self._optimizer.state_dict(), "schedule": self._schedule.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what `training_state` gave."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])

    def _backward(
        self, rows: Sequence[TrainingRow], advantages: Mapping[str, float], weights: Mapping[str, float]
    ) -> list[float]:
        """Add up the gradient; return the sums of loss, ratio, clipped tokens and KL."""
        total = torch.zeros(4, device=self.model.device)
        for indices in micro_batches(rows, self._micro_batch_tokens):
            part = self._loss([rows[index] for index in indices], advantages, weights)
            cast("Any", part.loss).backward()
            total += torch.stack([part.loss.detach(), part.ratio, part.clipped, part.approx_kl])
        return _floats(total)

    def _loss(
        self, rows: Sequence[TrainingRow], advantages: Mapping[str, float], weights: Mapping[str, float]
    ) -> ClippedLoss:
        batch = to_batch(rows, self.model.device)
        sampled = [row.rollout_id for row in rows for _ in range(sum(row.mask))]
        return clipped_loss(
            sampled_logprobs(self.model, batch),
            batch.recorded_N,
            batch.recorded_N.new_tensor([advantages[rollout_id] for rollout_id in sampled]),
            batch.recorded_N.new_tensor([weights[rollout_id] for rollout_id in sampled]),
            self._clip_ratio,
        )

    def _update(self, loss: float) -> float:
        """Apply the gradient and return its norm; refuse one that is not finite."""
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._optimizer.zero_grad()
            raise ModelError(
                f"step {self.version + 1} has loss {loss} and gradient norm {grad_norm}; the weights were not changed. "
                "Look for extreme log-probabilities in the rows, or lower the learning rate"
            )
        cast("Any", self._optimizer).step()
        self._schedule.step()
        return grad_norm


def _floats(values_N: Tensor) -> list[float]:
    return cast("Any", values_N).tolist()
