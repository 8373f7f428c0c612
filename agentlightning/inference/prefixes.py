"""Keys and values of finished answers, for prompts that begin with the same tokens: a rollout's next turn mostly."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each attention layer, each of shape (heads, columns, head size)."""


class Prefix(NamedTuple):
    """The beginning of a prompt that need not be computed again.

    Attributes:
        length: How many of its tokens.
        layers: Keys and values of at least so many columns.
    """

    length: int
    layers: Layers


class PrefixStore:
    """Keeps keys and values by their tokens; what was not used for the longest time goes first.

    Args:
        capacity: Bytes of keys and values to keep at most.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        # The last one was used last.
        self._entries: list[_Entry] = []

    @property
    def size(self) -> int:
        """Bytes of keys and values now."""
        return self._size

    def add(self, token_ids: Sequence[int], layers: Layers) -> None:
        """Keep the keys and values of a sequence, and no longer those of its own beginnings."""
        added = _Entry(array("q", token_ids), layers)
        if added.size > self._capacity:
            return
        self._entries = [*(each for each in self._entries if not added.begins_with(each)), added]
        self._size = sum(each.size for each in self._entries)
        while self._size > self._capacity:
            self._size -= self._entries.pop(0).size

    def find(self, prompt: Sequence[int]) -> Prefix | None:
        """Return the longest known beginning of a prompt that leaves at least its last token to compute."""
        wanted = array("q", prompt[:-1])
        found, longest = None, 0
        for entry in self._entries:
            if (length := _common_length(entry.token_ids, wanted, longest)) > longest:
                found, longest = entry, length
        if found is None:
            return None
        self._entries.remove(found)
        self._entries.append(found)
        return Prefix(longest, found.layers)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._size = 0


class _Entry:
    def __init__(self, token_ids: array[int], layers: Layers) -> None:
        self.token_ids = token_ids
        self.layers = layers
        self.size = sum(keys.nbytes + values.nbytes for keys, values in layers)

    def begins_with(self, other: _Entry) -> bool:
        return self.token_ids[: len(other.token_ids)] == other.token_ids


def _common_length(first: array[int], second: array[int], known: int) -> int:
    """Return how many tokens two sequences begin with alike; 0 if they are no more than `known`."""
    low, high = 0, min(len(first), len(second))
    if high <= known or first[known] != second[known]:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
