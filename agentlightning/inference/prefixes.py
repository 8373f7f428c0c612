"""Keys and values of finished answers, for prompts that begin with the same tokens: a rollout's next turn mostly."""

from __future__ import annotations

from array import array
from bisect import bisect_right
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
        # In the order of their tokens: of all sequences, a neighbour has the longest beginning in common with another.
        self._sorted: list[_Entry] = []
        # In the order of their use, the last one last.
        self._used: dict[_Entry, None] = {}

    @property
    def size(self) -> int:
        """Bytes of keys and values now."""
        return self._size

    def add(self, token_ids: Sequence[int], layers: Layers) -> None:
        """Keep the keys and values of a sequence instead of those of its own beginning."""
        added = _Entry(array("q", token_ids), layers)
        if added.size > self._capacity:
            return
        index = self._place(added.token_ids)
        while index and added.begins_with(self._sorted[index - 1]):
            index -= 1
            self._drop(self._sorted[index])
        self._sorted.insert(index, added)
        self._used[added] = None
        self._size += added.size
        while self._size > self._capacity:
            self._drop(next(iter(self._used)))

    def find(self, prompt: Sequence[int]) -> Prefix | None:
        """Return the longest known beginning of a prompt that leaves at least its last token to compute."""
        wanted = array("q", prompt[:-1])
        place = self._place(wanted)
        neighbours = self._sorted[max(0, place - 1) : place + 1]
        lengths = [_common_length(entry.token_ids, wanted) for entry in neighbours]
        longest = max(lengths, default=0)
        if longest == 0:
            return None
        found = neighbours[lengths.index(longest)]
        self._used[found] = self._used.pop(found)
        return Prefix(longest, found.layers)

    def clear(self) -> None:
        """Forget everything."""
        self._sorted.clear()
        self._used.clear()
        self._size = 0

    def _place(self, token_ids: array[int]) -> int:
        """Return where a sequence comes among the others, behind those that are equal."""
        return bisect_right(self._sorted, token_ids, key=lambda entry: entry.token_ids)

    def _drop(self, entry: _Entry) -> None:
        del self._used[entry]
        self._sorted.remove(entry)
        self._size -= entry.size


class _Entry:
    def __init__(self, token_ids: array[int], layers: Layers) -> None:
        self.token_ids = token_ids
        self.layers = layers
        self.size = sum(keys.nbytes + values.nbytes for keys, values in layers)

    def begins_with(self, other: _Entry) -> bool:
        return self.token_ids[: len(other.token_ids)] == other.token_ids


def _common_length(first: array[int], second: array[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
