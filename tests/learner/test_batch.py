from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from agentlightning.errors import ConfigurationError
from agentlightning.learner.batch import micro_batches, to_batch
from agentlightning.types import TrainingRow

CPU = torch.device("cpu")


def row(length: int) -> TrainingRow:
    return TrainingRow(
        rollout_id="ro-1",
        attempt_id="at-1",
        token_ids=list(range(1, length + 1)),
        mask=[False] + [True] * (length - 1),
        logprobs=[-float(i) for i in range(length)],
        temperatures=[0.5 + i for i in range(length)],
        weights_versions=[0] * length,
    )


@given(st.lists(st.integers(1, 40)), st.integers(1, 100))
def test_micro_batches_hold_each_row_once_within_the_budget(lengths: list[int], max_tokens: int) -> None:
    batches = list(micro_batches([row(length) for length in lengths], max_tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= max_tokens


def test_a_batch_is_padded_and_its_tokens_follow_the_rows() -> None:
    batch = to_batch([row(2), row(3)], CPU)
    assert batch.token_ids_BL.tolist() == [[1, 2, 0], [1, 2, 3]]
    assert batch.sampled_BL.tolist() == [[False, True, False], [False, True, True]]
    assert batch.recorded_N.tolist() == [-1.0, -1.0, -2.0]
    assert batch.temperatures_N.tolist() == [1.5, 1.5, 2.5]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(row(3), temperatures=[1.0, 0.0, 1.0]), "temperature 0"),
        (replace(row(3), mask=[True, True, True]), "nothing predicts"),
        (replace(row(3), logprobs=[0.0]), "different lengths"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(bad: TrainingRow, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"ro-1.*{reason}"):
        to_batch([row(2), bad], CPU)


def test_the_temperature_of_a_prompt_does_not_matter() -> None:
    to_batch([replace(row(2), temperatures=[0.0, 1.0])], CPU)
