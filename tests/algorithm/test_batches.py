from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from agentlightning.algorithm.batches import batch_iter_over_dataset


@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 2**32))
def test_no_batch_has_a_task_twice_and_all_tasks_are_used_alike(n_tasks: int, size: int, seed: int) -> None:
    batches = batch_iter_over_dataset(range(n_tasks), size, rng=random.Random(seed))
    taken = list(itertools.islice(batches, 30))
    assert {len(batch) for batch in taken} == {min(size, n_tasks)}
    assert all(len(set(batch)) == len(batch) for batch in taken)
    used = Counter(task for batch in taken for task in batch)
    assert max(used.values()) - min(used[task] for task in range(n_tasks)) <= 1


@pytest.mark.parametrize(("tasks", "size"), [([], 1), ([1], 0)])
def test_batches_of_nothing_are_refused(tasks: list[int], size: int) -> None:
    with pytest.raises(ValueError, match="no batches"):
        batch_iter_over_dataset(tasks, size)
