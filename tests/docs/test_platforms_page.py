"""The page on platforms has every extra and every Python that the project declares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PAGE = (ROOT / "docs" / "platforms.md").read_text("utf-8")


def test_every_extra_is_in_the_table() -> None:
    table = PAGE.partition("## Extras")[2]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(
        PROJECT["optional-dependencies"]
    )


def test_the_versions_of_python_are_those_that_are_declared() -> None:
    declared = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if ":: Python :: 3." in name]
    assert f"| Python | {', '.join(declared)} |" in PAGE


def test_what_windows_says_is_what_the_page_says() -> None:
    said = (ROOT / "agentlightning" / "unix.py").read_text("utf-8")
    words = "".join(re.findall(r'^        "(.+)"$', said, re.MULTILINE))
    assert words in " ".join(PAGE.split())
