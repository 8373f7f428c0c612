"""What the page on debugging shows is what the doctor prints, and no code of a finding is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "debugging.md").read_text("utf-8")
RULES = (ROOT / "agentlightning" / "doctor" / "rules.py").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_report_on_the_page_is_the_one_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    exec("".join(blocks("python")), {"__name__": "docs"})
    (report,) = blocks("text")
    assert report in capsys.readouterr().out


def test_every_code_is_in_the_table() -> None:
    codes = re.findall(r'code="([a-z-]+)"', RULES) + re.findall(
        r'^    "[a-z_]+": \(\n        "([a-z-]+)"', RULES, re.MULTILINE
    )
    assert len(codes) > 20
    rows = re.findall(r"^\| `([a-z][a-z-]+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted({*codes, "all-good"})
