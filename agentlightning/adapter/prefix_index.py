"""Token sequences in order, so that those a prompt starts with are found without looking at the others."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

_WIDTH = 4
_FEW = 64
"""Tokens that are compared at once."""


def packed(token_ids: Sequence[int]) -> bytes:
    """Return the tokens as bytes that sort as they do, and of which each slice of whole tokens is a prefix of them."""
    values = array("I", token_ids)
    values.byteswap()
    return values.tobytes()


def common_length(left: bytes, right: bytes) -> int:
    """Return how many tokens two packed sequences have in common at their start, by bisection."""
    same, end = 0, min(len(left), len(right)) // _WIDTH
    while end - same > _FEW:
        middle = (same + end) // 2
        if left[same * _WIDTH : middle * _WIDTH] == right[same * _WIDTH : middle * _WIDTH]:
            same = middle
        else:
            end = middle
    differing = _number(left, same, end) ^ _number(right, same, end)
    return end - -(-differing.bit_length() // (8 * _WIDTH))


def _number(tokens: bytes, start: int, end: int) -> int:
    """Return the tokens of a part as one number, its first token foremost."""
    return int.from_bytes(tokens[start * _WIDTH : end * _WIDTH])


class PrefixIndex(Generic[T]):
    """Values by packed tokens; several values may have the same."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._first: dict[bytes, T] = {}
        self._others: dict[bytes, deque[T]] = {}

    def add(self, key: bytes, value: T) -> None:
        """Add a value."""
        if key in self._first:
            self._others.setdefault(key, deque()).append(value)
        else:
            self._first[key] = value
            insort(self._keys, key)

    def take_longest_prefix(self, tokens: bytes) -> T | None:
        """Remove and return the value whose key is the longest that the tokens start with; of several the first."""
        key = next(self._prefixes(tokens), None)
        if key is None:
            return None
        value, others = self._first[key], self._others.get(key)
        if others:
            self._first[key] = others.popleft()
        else:
            del self._first[key]
            del self._keys[bisect_left(self._keys, key)]
        return value

    def prefixes(self, tokens: bytes, longest: int) -> Iterator[T]:
        """Return the values whose keys the tokens start with, the longest first, of at most so many tokens."""
        for key in self._prefixes(tokens[: longest * _WIDTH]):
            yield self._first[key]
            yield from self._others.get(key, ())

    def longest_common(self, tokens: bytes) -> int:
        """Return how many tokens the nearest key has in common with these."""
        at = bisect_left(self._keys, tokens)
        return max((common_length(tokens, key) for key in self._keys[max(at - 1, 0) : at + 1]), default=0)

    def _prefixes(self, tokens: bytes) -> Iterator[bytes]:
        # What sorts right before the tokens shares at least as much with them as every prefix of them that is a key.
        rest = tokens
        while at := bisect_right(self._keys, rest):
            nearest = self._keys[at - 1]
            if rest.startswith(nearest):
                yield nearest
                if not nearest:
                    return
                rest = nearest[:-_WIDTH]
            else:
                rest = rest[: common_length(rest, nearest) * _WIDTH]
