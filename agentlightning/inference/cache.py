"""The keys and values of a running batch.

All rows end at the same column, so a shorter row has unused columns on its left. A row joins by a copy into the
columns before the common end, leaves by a copy of the last row over it, and the columns that no row uses any more
fall out of the view. Buffers have spare room, so a decode step writes one column and does not copy the whole cache.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from agentlightning.inference.prefixes import Layers

_SPARE_COLUMNS = 64


class BatchCache(Cache):
    """Left-padded keys and values of the rows of a batch, as the model reads and extends them.

    Args:
        layers: How many attention layers the model has.

    Attributes:
        starts: First used column of each row.
        end: The column that the next token of every row goes to.
    """

    def __init__(self, layers: int) -> None:
        self.starts: list[int] = []
        self.end = 0
        self._buffers = [_BatchLayer(self) for _ in range(layers)]
        super().__init__(layers=[*self._buffers])

    @property
    def begin(self) -> int:
        """First column that any row uses."""
        return min(self.starts, default=self.end)

    def join(self, prefilled: DynamicCache, rows: list[int], lengths: list[int]) -> None:
        """Append rows.

        Args:
            prefilled: Their keys and values, left-padded to one length.
            rows: Row of `prefilled` of each new row.
            lengths: Number of used columns of each new row.
        """
        first = len(self.starts)
        if first == 0:
            self.end = max(lengths)
        width = max(self.end - self.begin, *lengths)
        self._reserve(width, first + len(lengths), prefilled)
        for row, (source_row, length) in enumerate(zip(rows, lengths, strict=True), first):
            self.starts.append(self.end - length)
            for buffer, source in zip(self._buffers, prefilled.layers, strict=True):
                buffer.copy_row(row, self.end, length, source, source_row)

    def copy_of(self, row: int) -> Layers:
        """Return the keys and values of a row's used columns."""
        return [buffer.copy_of(row, self.starts[row], self.end) for buffer in self._buffers]

    def leave(self, row: int) -> None:
        """Drop a row; the last row takes its number."""
        last = len(self.starts) - 1
        if row != last:
            for buffer in self._buffers:
                buffer.move_row(last, row, self.starts[last], self.end)
        self.starts[row] = self.starts[last]
        self.starts.pop()

    def clear(self, row: int) -> None:
        """Forget what a row holds that is not finite: it would spoil the rows that come to its place."""
        for buffer in self._buffers:
            buffer.clear_row(row)

    def advance(self) -> None:
        """Take the column that a forward pass has just written as used."""
        self.end += 1
        if self.end == self._buffers[0].columns:
            self._resize(self.end - self.begin, self._buffers[0].rows)

    def _reserve(self, width: int, rows: int, prefilled: DynamicCache) -> None:
        """Make room for `rows` rows and `width` columns before the end, and one after it."""
        if not self._buffers[0].is_initialized:
            for buffer, source in zip(self._buffers, prefilled.layers, strict=True):
                buffer.lazy_initialization(*_tensors(source))
        if width > self.end or self.end >= self._buffers[0].columns or rows > self._buffers[0].rows:
            self._resize(width, max(self._buffers[0].rows, 1 << (rows - 1).bit_length()))

    def _resize(self, width: int, rows: int) -> None:
        used = range(self.begin, self.end)
        for buffer in self._buffers:
            buffer.resize(rows, width + max(_SPARE_COLUMNS, width // 4), len(self.starts), used, width)
        self.starts = [start + width - self.end for start in self.starts]
        self.end = width


class _BatchLayer(CacheLayerMixin):
    """Buffers of one attention layer: keys and values of shape (rows, heads, columns, head size)."""

    def __init__(self, cache: BatchCache) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  # takes untyped keywords
        self._cache = cache
        self._keys = self._values = torch.empty(0, 0, 0, 0)

    @property
    def rows(self) -> int:
        return self._keys.shape[0]

    @property
    def columns(self) -> int:
        return self._keys.shape[2]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self._keys, self._values = key_states[:0, :, :0], value_states[:0, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, begin, end = len(self._cache.starts), self._cache.begin, self._cache.end
        self._keys[:rows, :, end : end + 1] = key_states
        self._values[:rows, :, end : end + 1] = value_states
        return self._keys[:rows, :, begin : end + 1], self._values[:rows, :, begin : end + 1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._cache.end - self._cache.begin

    def get_max_length(self) -> int:
        return -1

    def copy_row(self, row: int, end: int, length: int, source: object, source_row: int) -> None:
        keys, values = _tensors(source)
        self._keys[row, :, end - length : end] = keys[source_row, :, -length:]
        self._values[row, :, end - length : end] = values[source_row, :, -length:]

    def copy_of(self, row: int, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._keys[row, :, start:end].clone(), self._values[row, :, start:end].clone()

    def move_row(self, source: int, target: int, start: int, end: int) -> None:
        self._keys[target, :, start:end] = self._keys[source, :, start:end]
        self._values[target, :, start:end] = self._values[source, :, start:end]

    def clear_row(self, row: int) -> None:
        # A masked column still takes part in the weighted sum with weight 0, and 0 x NaN is NaN.
        self._keys[row] = 0
        self._values[row] = 0

    def resize(self, rows: int, columns: int, used_rows: int, used: range, end: int) -> None:
        self._keys = _resized(self._keys, rows, columns, used_rows, used, end)
        self._values = _resized(self._values, rows, columns, used_rows, used, end)


def _resized(old: torch.Tensor, rows: int, columns: int, used_rows: int, used: range, end: int) -> torch.Tensor:
    # Zeros for the same reason as in `clear_row`.
    new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    new[:used_rows, :, end - len(used) : end] = old[:used_rows, :, used.start : used.stop]
    return new


def _tensors(layer: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a layer that has seen tokens."""
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    assert isinstance(keys, torch.Tensor)
    assert isinstance(values, torch.Tensor)
    return keys, values
