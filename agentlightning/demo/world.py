"""The demo's world, "pointer lookup": a question, a table to look things up in, and one right answer.

The agent is asked "What is the value of <name>?". The tool `lookup` answers `same as <other name>` (follow it),
`value <two digits>`, or `error`. A task names everything an agent needs, so it travels as plain JSON.

Names have two parts, 26 x 16 = 416 of them. 100 are held out: no training or validation task, and nothing that the
shipped policy was built from, holds one of them. Their parts do occur there, so the test asks whether the policy
copies a name it never saw, not whether it can spell one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, TypedDict

_FIRST: Final = (
    "apt big coy dim dry fat fit fun hot icy lax low mad new odd old raw red sad shy sly tan wee wet wry zen"
).split()
_SECOND: Final = "ant bat bee cat cow cub dog eel elk emu fox hen owl pig ram yak".split()

NAMES: Final = tuple(f"{first}-{second}" for first in _FIRST for second in _SECOND)
TEST_NAMES: Final = tuple(random.Random(416).sample(NAMES, 100))
TRAIN_NAMES: Final = tuple(sorted(set(NAMES) - set(TEST_NAMES)))

_MAX_HOPS: Final = 3
_DISTRACTORS: Final = 3

LOOKUP_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "lookup",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
}
"""The world's tool, as an OpenAI tool definition."""


class Task(TypedDict):
    """One question with its world.

    Attributes:
        id: Unique within its split and seed.
        question: What the user asks.
        records: The table behind `lookup`: the path to the answer and a few records that lead elsewhere.
        answer: The two digits that answer the question.
        hops: How many lookups the answer takes, 1 to 3.
    """

    id: str
    question: str
    records: dict[str, str]
    answer: str
    hops: int


def lookup(task: Task, key: str) -> str:
    """Answer the tool call `lookup(key)`: the record of `key`, or `error` where there is none."""
    return task["records"].get(key, "error")


def solution(task: Task) -> str:
    """The only answer that is rewarded, word for word."""
    return f"The value is {task['answer']}."


def train_tasks(seed: int = 0, count: int = 4096) -> list[Task]:
    """Tasks over the training names; the first ones of a longer list are those of a shorter one."""
    return _tasks("train", seed, count, TRAIN_NAMES)


def val_tasks(count: int = 64) -> list[Task]:
    """Tasks to watch training with: other tasks than the training ones, over the same names."""
    return _tasks("val", 0, count, TRAIN_NAMES)


def test_tasks() -> list[Task]:
    """The frozen test set: 200 tasks made of held-out names only."""
    return _tasks("test", 0, 200, TEST_NAMES)


def _tasks(split: str, seed: int, count: int, names: Sequence[str]) -> list[Task]:
    rng = random.Random(f"{split} {seed}")
    return [_task(f"{split}-{seed}-{index}", rng, names) for index in range(count)]


def _task(task_id: str, rng: random.Random, names: Sequence[str]) -> Task:
    hops = rng.randint(1, _MAX_HOPS)
    path = rng.sample(names, hops + _DISTRACTORS)
    answer, *others = (f"{number:02d}" for number in rng.sample(range(100), 1 + _DISTRACTORS))
    records = {name: f"same as {following}" for name, following in pairwise(path[:hops])}
    records[path[hops - 1]] = f"value {answer}"
    records |= {name: f"value {other}" for name, other in zip(path[hops:], others, strict=True)}
    return Task(id=task_id, question=f"What is the value of {path[0]}?", records=records, answer=answer, hops=hops)
