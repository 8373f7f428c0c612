"""Batches of a dataset without end, each task once a pass."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from agentlightning.errors import ConfigurationError
from agentlightning.types import Dataset

T = TypeVar("T")


def batch_iter_over_dataset(
    dataset: Dataset[T], batch_size: int, *, rng: random.Random | None = None
) -> Iterator[Sequence[T]]:
    """Yield batches without end: every pass has each task once, in another order, and no batch has a task twice.

    A dataset that is no larger than a batch is yielded whole each time. Where a pass does not fill its last batch, that
    is filled from the next.

    Args:
        dataset: The tasks.
        batch_size: Tasks a batch.
        rng: Says the orders; its own by default.

    Raises:
        ConfigurationError: There is no task, or a batch has no room for one.
    """
    if batch_size < 1 or not len(dataset):
        raise ConfigurationError(f"no batches of {batch_size} tasks come of a dataset of {len(dataset)}")
    return _batches(dataset, min(batch_size, len(dataset)), rng or random.Random())


def _batches(dataset: Dataset[T], batch_size: int, rng: random.Random) -> Iterator[Sequence[T]]:
    batch: list[int] = []
    while True:
        order = list(range(len(dataset)))
        rng.shuffle(order)
        late = [index for index in order if index in batch]  # not twice in the batch that is being filled
        for index in [index for index in order if index not in batch] + late:
            batch.append(index)
            if len(batch) == batch_size:
                yield [dataset[each] for each in batch]
                batch = []
