"""The loss: PPO's clipped surrogate, summed over weighted tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedLoss:
    """The loss of some tokens, and what it saw.

    Attributes:
        loss: Scalar with gradient; summing it over the parts of a step gives the step's loss.
        ratio: Sum of the probability ratios.
        clipped: How many tokens the clip took the gradient from.
        approx_kl: Sum of the unbiased estimates ratio - 1 - log(ratio) of KL(recorded || present), in nats (Schulman,
            http://joschu.net/blog/kl-approx.html).
    """

    loss: Tensor
    ratio: Tensor
    clipped: Tensor
    approx_kl: Tensor


def clipped_loss(
    logprobs_N: Tensor, recorded_N: Tensor, advantages_N: Tensor, weights_N: Tensor, clip_ratio: float
) -> ClippedLoss:
    """Compute - sum_i w_i min(r_i A_i, clip(r_i, 1 - c, 1 + c) A_i) with r_i = exp(logprob_i - recorded_i).

    The clipped surrogate objective of PPO (arXiv:1707.06347, equation 7).

    Args:
        logprobs_N: Log-probabilities under the present weights, with gradient.
        recorded_N: Log-probabilities recorded when the tokens were sampled.
        advantages_N: Advantage of each token's rollout.
        weights_N: Weight of each token.
        clip_ratio: The c of the formula.
    """
    log_ratio_N = logprobs_N - recorded_N
    ratio_N = log_ratio_N.exp()
    surrogate_N = ratio_N * advantages_N
    bounded_N = ratio_N.clamp(1 - clip_ratio, 1 + clip_ratio) * advantages_N
    return ClippedLoss(
        loss=-(weights_N * surrogate_N.minimum(bounded_N)).sum(),
        ratio=ratio_N.detach().sum(),
        clipped=(bounded_N < surrogate_N).sum(),
        approx_kl=(ratio_N - 1 - log_ratio_N).detach().sum(),
    )
