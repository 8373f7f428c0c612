"""Rows as tensors: checked, sorted by length, cut into micro-batches, padded on the right.

Shapes: B rows, L tokens in the longest of them, N sampled tokens in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from agentlightning.errors import ConfigurationError
from agentlightning.types.llm_call import TrainingRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some rows; the tensors over N follow the rows and, within a row, its sampled tokens.

    Attributes:
        token_ids_BL: Padded with 0, which no real token sees: the model is causal and padding comes last.
        sampled_BL: True on sampled tokens; position i describes token i itself.
        recorded_N: Log-probability of each sampled token when it was sampled.
        temperatures_N: Temperature it was sampled at.
    """

    token_ids_BL: Tensor
    sampled_BL: Tensor
    recorded_N: Tensor
    temperatures_N: Tensor


def micro_batches(rows: Sequence[TrainingRow], max_tokens: int) -> Iterator[list[int]]:
    """Cut rows into batches of at most `max_tokens` tokens, padding included; a longer row is a batch of its own.

    Yields:
        Indices into `rows`, from the longest row to the shortest, so that rows padded together are alike in length.
    """
    batch: list[int] = []
    longest = 0
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].token_ids)):
        if batch and (len(batch) + 1) * longest > max_tokens:
            yield batch
            batch = []
        if not batch:
            longest = len(rows[index].token_ids)
        batch.append(index)
    if batch:
        yield batch


def to_batch(rows: Sequence[TrainingRow], device: torch.device) -> Batch:
    """Pad rows into tensors.

    Raises:
        ConfigurationError: A row that cannot be trained on; the message says which and why.
    """
    for row in rows:
        _check(row)
    sampled_BL = _padded([row.mask for row in rows], torch.bool)

    def of_sampled(values: list[list[float]]) -> Tensor:
        return _padded(values, torch.float32)[sampled_BL].to(device)

    return Batch(
        token_ids_BL=_padded([row.token_ids for row in rows], torch.int64).to(device),
        sampled_BL=sampled_BL.to(device),
        recorded_N=of_sampled([row.logprobs for row in rows]),
        temperatures_N=of_sampled([row.temperatures for row in rows]),
    )


def predictors(sampled_BL: Tensor) -> Tensor:
    """Mark the positions whose logits predict a sampled token: each stands one before its token. Shape (B, L)."""
    return torch.nn.functional.pad(sampled_BL[:, 1:], (0, 1))


def _padded(values: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    return pad_sequence([torch.tensor(value, dtype=dtype) for value in values], batch_first=True)


def _check(row: TrainingRow) -> None:
    length = len(row.token_ids)
    if not length == len(row.mask) == len(row.logprobs) == len(row.temperatures):
        raise ConfigurationError(f"a row of rollout {row.rollout_id} has lists of different lengths")
    if length and row.mask[0]:
        raise ConfigurationError(
            f"a row of rollout {row.rollout_id} starts with a sampled token, which nothing predicts; keep its prompt"
        )
    if any(math.isnan(logprob) for logprob, sampled in zip(row.logprobs, row.mask, strict=True) if sampled):
        raise ConfigurationError(
            f"rollout {row.rollout_id} has sampled tokens without log-probabilities; "
            "use a backend that returns them (logprobs) with its tokens"
        )
    if any(temperature <= 0 for temperature, sampled in zip(row.temperatures, row.mask, strict=True) if sampled):
        raise ConfigurationError(
            f"rollout {row.rollout_id} has tokens sampled at temperature 0, which have no probability to train on; "
            "sample training rollouts at a temperature above 0"
        )
