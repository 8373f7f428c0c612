"""Writes docs/migrate.md: its head, and tables of decision 005, docs/compat.md and agentlightning/_compat.py.

Run `python docs/generate_migrate.py > docs/migrate.md`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from agentlightning._compat import ENDED_DEEPER, ENDED_MODULES, ENDED_NAMES, MOVED_MODULES, MOVED_NAMES

HERE: Final = Path(__file__).parent
_MARK: Final = "<!-- Written by docs/generate_migrate.py; do not edit. -->\n"
_DECISION: Final = "decisions/005-where-v03-is-left.md"

_HEADING: Final = re.compile(r"^## [\d.]+ (.+)$")
_FACT: Final = re.compile(r"^\| (EX-[\d.]+-\d+) \| (.+?) \| deviates: (.+?)(?: \((?:`tests/.+|docs/.+)\))? \|$")
_ROW: Final = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \|$")


def page() -> str:
    """Return the page."""
    return _MARK + (HERE / "migrate_head.txt").read_text("utf-8") + _tables()


def _tables() -> str:
    deviations = [*_decided(), *_noticed()]
    ended = {f"agentlightning.{name}": use for name, use in ENDED_NAMES.items()} | ENDED_MODULES | ENDED_DEEPER
    moved = MOVED_MODULES | MOVED_NAMES
    return "\n".join(
        [
            "## Every deviation",
            "",
            f"There are {len(deviations)}. Those of runs and of the store come with their reasons, as",
            f"[decided]({_DECISION}); the others are facts of [What v0.3 promised](compat.md), with their tests.",
            "",
            "| where | in v0.3 | here |",
            "|---|---|---|",
            *(f"| {where} | {before} | {now} |" for where, before, now in deviations),
            "",
            "## Names and modules that ended",
            "",
            "Importing one raises `ImportError` with these words.",
            "",
            *_pairs("ended", "use", ended),
            "",
            "## Modules that moved",
            "",
            "The old path is still imported.",
            "",
            *_pairs("in v0.3", "here", moved),
            "",
        ]
    )


def _decided() -> Iterable[tuple[str, str, str]]:
    """Yield the rows of the decision's tables, with its reasons."""
    where = "runs and servers"
    for line in (HERE / _DECISION).read_text("utf-8").splitlines():
        if line.startswith("The ") and line.endswith("too:"):
            where = "the " + line.removeprefix("The ").split(" differs")[0]
        row = _ROW.match(line)
        if row is not None and row[1] != "in v0.3":
            yield where, row[1], f"{row[2]}: {row[3]}"


def _noticed() -> Iterable[tuple[str, str, str]]:
    """Yield the facts of the page on compatibility that are left."""
    where = ""
    for line in (HERE / "compat.md").read_text("utf-8").splitlines():
        if heading := _HEADING.match(line):
            where = heading[1]
        if fact := _FACT.match(line):
            yield where, fact[2], fact[3]


def _pairs(left: str, right: str, pairs: Mapping[str, str]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|", *(f"| `{old}` | {new} |" for old, new in sorted(pairs.items()))]


if __name__ == "__main__":
    sys.stdout.write(page())
