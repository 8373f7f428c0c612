from __future__ import annotations

import json
import re

from hypothesis import given, strategies as st

from agentlightning.demo.teacher import clean_transcript
from agentlightning.demo.world import (
    NAMES,
    TEST_NAMES,
    TRAIN_NAMES,
    Task,
    lookup,
    solution,
    test_tasks as frozen_tasks,
    train_tasks,
    val_tasks,
)


def names_in(task: Task) -> set[str]:
    return set(re.findall("[a-z]+-[a-z]+", json.dumps(task)))


def test_held_out_names_occur_in_no_training_task_but_their_parts_do() -> None:
    assert len(TEST_NAMES) == 100
    assert len(NAMES) == 416
    assert not set(TEST_NAMES) & set(TRAIN_NAMES)
    for task in [*train_tasks(0, 500), *val_tasks()]:
        assert not names_in(task) & set(TEST_NAMES)
    for task in frozen_tasks():
        assert names_in(task) <= set(TEST_NAMES)
    seen = {part for name in TRAIN_NAMES for part in name.split("-")}
    assert {part for name in TEST_NAMES for part in name.split("-")} <= seen


@given(st.integers(0, 1000))
def test_following_the_pointers_answers_every_task_in_its_number_of_hops(seed: int) -> None:
    for task in train_tasks(seed, 5):
        transcript = clean_transcript(task)
        found = [message["content"] for message in transcript if message["role"] == "tool"]
        assert len(found) == task["hops"]
        assert all(answer.startswith("same as ") for answer in found[:-1])
        assert found[-1] == f"value {task['answer']}"
        assert transcript[-1]["content"] == solution(task) == f"The value is {task['answer']}."


def test_paths_are_one_to_three_hops_long() -> None:
    assert {task["hops"] for task in frozen_tasks()} == {1, 2, 3}


def test_an_unknown_key_is_an_error() -> None:
    assert lookup(train_tasks(0, 1)[0], "nobody") == "error"


def test_tasks_are_the_same_every_time_and_different_for_every_seed() -> None:
    assert len(frozen_tasks()) == 200
    assert frozen_tasks() == frozen_tasks()
    assert train_tasks(1, 20)[:5] == train_tasks(1, 5)
    assert train_tasks(1, 5) != train_tasks(2, 5)
    ids = [task["id"] for task in [*train_tasks(0, 50), *train_tasks(1, 50), *val_tasks(), *frozen_tasks()]]
    assert len(set(ids)) == len(ids)
    assert json.loads(json.dumps(frozen_tasks())) == frozen_tasks()
