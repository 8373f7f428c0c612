"""Token sequences of different lengths as one left-padded tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch

Item = TypeVar("Item")

PASS_TOKENS = 4096
"""Tokens, padding included, of one forward pass over prompts: larger passes are no faster on a CPU, and use more
memory."""


class Padded(NamedTuple):
    """Sequences that end at the same column.

    Attributes:
        token_ids: Tokens, 0 in the padding. Shape (B, L).
        mask: True on tokens, False on padding. Shape (B, L).
        positions: Position of each token in its own sequence, 0 in the padding. Shape (B, L).
    """

    token_ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


def left_pad(sequences: Sequence[Sequence[int]], device: torch.device) -> Padded:
    """Pad `sequences` on the left to the length of the longest."""
    longest = max(map(len, sequences))
    padding_B1 = torch.tensor([longest - len(s) for s in sequences], device=device)[:, None]
    token_ids_BL = torch.tensor([[0] * (longest - len(s)) + list(s) for s in sequences], device=device)
    positions_BL = torch.arange(longest, device=device) - padding_B1
    return Padded(token_ids_BL, positions_BL >= 0, positions_BL.clamp_min(0))


def group_by_length(items: Sequence[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Split into groups of similar length, each of at most `PASS_TOKENS` tokens when padded, or of one item."""
    group: list[Item] = []
    for item in sorted(items, key=length):
        if group and length(item) * (len(group) + 1) > PASS_TOKENS:
            yield group
            group = []
        group.append(item)
    if group:
        yield group
