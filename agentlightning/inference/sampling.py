"""From logits to tokens, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from agentlightning.inference.sampler import SamplingParams


class BatchSampling:
    """The sampling parameters of the rows of a batch as tensors; build a new one when the rows change.

    Args:
        params: One per row.
        device: Where the logits will be.
    """

    def __init__(self, params: Sequence[SamplingParams], device: torch.device) -> None:
        greedy = [p.temperature == 0 for p in params]
        self._temperatures_B1 = torch.tensor([p.temperature or 1.0 for p in params], device=device)[:, None]
        self._tempered = any(p.temperature not in (0, 1) for p in params)
        self._greedy_B = torch.tensor(greedy, device=device) if any(greedy) else None
        # Greedy rows take the same token however the tail is cut, and report the uncut distribution.
        cuts = [(0, 1.0) if p.temperature == 0 else (p.top_k, p.top_p) for p in params]
        self._cuts = cuts if any(cut != (0, 1.0) for cut in cuts) else None

    def sample(self, logits_BV: torch.Tensor, uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
        """Draw one token a row by inverting the cumulative distribution.

        Args:
            logits_BV: Logits of the next token, any float type.
            uniforms: One number in [0, 1) a row, the only randomness used.

        Returns:
            The token of each row and its log-probability under the distribution it was drawn from.
        """
        logits_BV = logits_BV.float()
        if self._tempered:
            logits_BV = logits_BV / self._temperatures_B1
        if self._cuts is not None:
            logits_BV = _cut_tail(logits_BV, self._cuts)
        logprobs_BV = logits_BV.log_softmax(-1)
        # In float64: over a large vocabulary a float32 sum would lose the small probabilities.
        cumulative_BV = logprobs_BV.double().exp_().cumsum(-1)
        draws_B1 = torch.tensor(uniforms, dtype=torch.float64, device=logits_BV.device)[:, None]
        tokens_B1 = torch.searchsorted(cumulative_BV, draws_B1 * cumulative_BV[:, -1:], right=True)
        tokens_B1.clamp_max_(logits_BV.shape[-1] - 1)
        if self._greedy_B is not None:
            tokens_B1 = torch.where(self._greedy_B[:, None], logits_BV.argmax(-1, keepdim=True), tokens_B1)
        return _as_list(tokens_B1), _as_list(logprobs_BV.gather(-1, tokens_B1))


def _as_list(column_B1: torch.Tensor) -> list[Any]:
    return cast("Any", column_B1[:, 0]).tolist()


def _cut_tail(logits_BV: torch.Tensor, cuts: Sequence[tuple[int, float]]) -> torch.Tensor:
    """Set to -inf what top-k, then top-p over what top-k left, exclude. `cuts` holds (top_k, top_p) of each row."""
    vocabulary = logits_BV.shape[-1]
    top_k_B1 = torch.tensor([k or vocabulary for k, _ in cuts], device=logits_BV.device)[:, None]
    # 2 rather than 1 for "off": rounding may push the sum of all probabilities above 1.
    top_p_B1 = torch.tensor([p if p < 1 else 2.0 for _, p in cuts], device=logits_BV.device)[:, None]
    sorted_BV, order_BV = logits_BV.sort(-1, descending=True)
    beyond_k_BV = torch.arange(vocabulary, device=logits_BV.device) >= top_k_B1
    probabilities_BV = sorted_BV.masked_fill(beyond_k_BV, -torch.inf).softmax(-1)
    before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
    excluded_BV = beyond_k_BV | (before_BV >= top_p_B1)
    return logits_BV.masked_fill(excluded_BV.scatter(-1, order_BV, excluded_BV), -torch.inf)
