"""Each fact of v0.3's execution side is held by a test, or left by a decision."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compat.md").read_text("utf-8")
LIST = (ROOT / "tests" / "docs" / "compat_ids.txt").read_text("utf-8")

FACT = re.compile(r"^(EX-[\d.]+-\d+) (.+)$", re.MULTILINE)
ROW = re.compile(r"^\| (EX-[\d.]+-\d+) \| (.+?) \| (.*) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
DECISION = re.compile(r"(?:^|<br>)(?:deviates: |\[\d{3}\]\(decisions/[\w.-]+\.md\): )[\w`].{8,}")
HEADING = re.compile(r"^#+ (\d+\.\d+) (.+)$", re.MULTILINE)


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """The names of the tests in a file, without importing it."""
    file = ROOT / path
    if not file.exists():
        return frozenset()
    functions = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if hasattr(node, "decorator_list")]
    names = (getattr(node, "name", "") for node in functions)
    return frozenset(name for name in names if name.startswith("test_"))


def problems(facts: str, page: str) -> list[str]:
    """What is wrong with a page that maps these facts."""
    wanted, rows = FACT.findall(facts), ROW.findall(page)
    said = {id: (words, answer) for id, words, answer in rows}
    found = [f"{id} is not on the page" for id, _ in wanted if id not in said]
    found += [f"{id} is not in the list" for id in said if id not in dict(wanted)]
    found += [f"{id} has other words on the page" for id, words in wanted if id in said and said[id][0] != words]
    for id, (_, answer) in said.items():
        tests = TEST.findall(answer)
        if not tests and not DECISION.search(answer):
            found.append(f"{id} has neither a test nor a decision")
        found += [f"{id} names {path}::{name}, which is no test" for path, name in tests if name not in names_in(path)]
    return found


def test_every_fact_has_a_test_that_exists_or_a_decision() -> None:
    assert problems(LIST, PAGE) == []


def test_ids_count_up_within_their_section() -> None:
    ids = [id for id, _ in FACT.findall(LIST)]
    sections = [number for number, _ in HEADING.findall(LIST)]
    counted = [[id for id in ids if id.startswith(f"EX-{number}-")] for number in sections]
    expected = [
        [f"EX-{number}-{1 + index}" for index in range(len(own))] for number, own in zip(sections, counted, strict=True)
    ]
    assert counted == expected
    assert [id for own in counted for id in own] == ids
    assert all(counted)


def test_page_and_list_have_the_same_sections() -> None:
    assert HEADING.findall(PAGE) == HEADING.findall(LIST)


HERE = "tests/docs/test_compat.py::test_every_fact_has_a_test_that_exists_or_a_decision"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (f"| EX-1.1-1 | a fact | `{HERE}` |", []),
        ("| EX-1.1-1 | a fact | deviates: better so, because |", []),
        ("| EX-1.1-1 | a fact | [005](decisions/005-where-v03-is-left.md): better so |", []),
        ("", ["EX-1.1-1 is not on the page"]),
        ("| EX-1.1-1 | a fact |  |", ["EX-1.1-1 has neither a test nor a decision"]),
        ("| EX-1.1-1 | a fact | deviates: |", ["EX-1.1-1 has neither a test nor a decision"]),
        (f"| EX-1.1-1 | another fact | `{HERE}` |", ["EX-1.1-1 has other words on the page"]),
        (
            "| EX-1.1-1 | a fact | `tests/docs/test_compat.py::test_nothing` |",
            ["EX-1.1-1 names tests/docs/test_compat.py::test_nothing, which is no test"],
        ),
        (
            "| EX-1.1-1 | a fact | `tests/nowhere.py::test_nothing` |",
            ["EX-1.1-1 names tests/nowhere.py::test_nothing, which is no test"],
        ),
        (
            f"| EX-1.1-1 | a fact | `{HERE}` |\n| EX-1.1-2 | more | `{HERE}` |",
            ["EX-1.1-2 is not in the list"],
        ),
    ],
    ids=["a test", "a deviation", "a decision", "absent", "empty", "no reason", "words", "no test", "no file", "extra"],
)
def test_a_page_that_is_wrong_is_noticed(page: str, expected: list[str]) -> None:
    assert problems("# 1.1 A section\nEX-1.1-1 a fact\n", page) == expected
