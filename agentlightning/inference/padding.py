"""Token sequences of different lengths as one left-padded tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch

Item = TypeVar("Item")

PASS_TOKENS = 4096
"""Tokens, padding included, of one forward pass over prompts: larger passes are no faster on a CPU, and use more
memory."""

_PASS_PADDING = 128
"""Padding of one forward pass at most: a pass of its own costs about as much as computing so many tokens."""


class Padded(NamedTuple):
    """Sequences that end at the same column.

    Attributes:
        token_ids: Tokens, 0 in the padding. Shape (B, L).
        mask: True on tokens, False on padding, behind K columns of tokens that come before. Shape (B, K + L).
        positions: Position of each token in its own sequence, 0 in the padding. Shape (B, L).
    """

    token_ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


def left_pad(sequences: Sequence[Sequence[int]], device: torch.device, before: Sequence[int] | None = None) -> Padded:
    """Pad sequences on the left to the length of the longest.

    Args:
        sequences: Of at least a token each.
        device: Where to put the tensors.
        before: How many tokens of each sequence come before these; none but those of full length have any. K is the
            most of them.
    """
    before = before or [0] * len(sequences)
    longest, known = max(map(len, sequences)), max(before)
    lengths_B1 = torch.tensor([len(s) + b for s, b in zip(sequences, before, strict=True)], device=device)[:, None]
    token_ids_BL = torch.tensor([[0] * (longest - len(s)) + list(s) for s in sequences], device=device)
    positions_BT = torch.arange(known + longest, device=device) - (known + longest - lengths_B1)
    return Padded(token_ids_BL, positions_BT >= 0, positions_BT[:, known:].clamp_min(0))


def group_by_length(items: Sequence[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Split into groups of similar length, each of at most `PASS_TOKENS` tokens when padded, or of one item."""
    group: list[Item] = []
    tokens = 0
    for item in sorted(items, key=length):
        padded = length(item) * (len(group) + 1)
        if group and (padded > PASS_TOKENS or padded - tokens - length(item) > _PASS_PADDING):
            yield group
            group, tokens = [], 0
        group.append(item)
        tokens += length(item)
    if group:
        yield group
