"""The page on rewards says every rule, and its examples print what it says they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentlightning.adapter.rewards import CreditRule, RewardMatchPolicy, Unmatched
from tests.docs.test_examples_in_docs import BLOCK

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "rewards.md").read_text("utf-8")
PRINTED = re.compile(r"^(?:print\(.*\)  )?# (.*)$", re.MULTILINE)


@pytest.mark.parametrize("name", ["rewards.md", "emitting.md"])
def test_examples_print_what_stands_behind_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {"__name__": "docs"}
    said: list[str] = []
    printed: list[str] = []
    for block in BLOCK.findall((DOCS / name).read_text("utf-8")):
        exec(compile(block, name, "exec"), namespace)
        lines = capsys.readouterr().out.splitlines()
        if expected := PRINTED.findall(block):
            said += expected
            printed += lines
    assert said
    assert printed == said


@pytest.mark.parametrize("policy", RewardMatchPolicy)
def test_every_policy_is_explained(policy: RewardMatchPolicy) -> None:
    assert re.search(rf"^\| `{policy.value}`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("rule", CreditRule)
def test_every_rule_is_named(rule: CreditRule) -> None:
    assert f"`{rule.value}`" in PAGE


@pytest.mark.parametrize("reason", Unmatched)
def test_every_reason_is_given(reason: Unmatched) -> None:
    assert reason.value in re.sub(r"\s+", " ", PAGE)
