"""The history of an APO run as files: JSON, and Markdown for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentlightning._internal.folders import write_whole
from agentlightning.algorithm.apo.history import History, RoundRecord, describe_comparison

RECORD_FILE: Final = "history.json"
PAGE_FILE: Final = "history.md"


def write_history(history: History, folder: Path) -> None:
    """Write both files."""
    write_whole(folder / RECORD_FILE, json.dumps(history.record(), indent=2, ensure_ascii=False) + "\n")
    write_whole(folder / PAGE_FILE, "\n".join(_lines(history)) + "\n")


def _lines(history: History) -> Iterator[str]:
    yield f"# Prompt optimisation of `{history.resource}`\n"
    if history.best is not None:
        yield f"Best: **{history.best.version}**, validation {history.validation_score(history.best)}\n"
        yield _fenced(history.best.prompt_template.template)
    yield f"\n{history.summary()}"
    yield "\n| prompt | made of | round | validation |\n|---|---|---|---|"
    for each in history.candidates.values():
        yield f"| {each.version} | {each.parent or ''} | {each.round} | {history.validation_score(each) or ''} |"
    for one in history.rounds:
        yield from _round_lines(one)
    for each in history.candidates.values():
        yield f"\n## {each.version}\n\n{_fenced(each.prompt_template.template)}"
        if each.critique:
            yield f"\nMade of {each.parent}, which was told:\n\n{_fenced(each.critique)}"


def _round_lines(each: RoundRecord) -> Iterator[str]:
    yield f"\n## Round {each.number}\n\nRanked on {len(each.validation_tasks)} validation tasks; those that went on:"
    yield f"{', '.join(each.beam)}.\n\n| prompt | score | failed |\n|---|---|---|"
    for version, score in each.ranking.items():
        yield f"| {version} | {score} | {score.failed} |"
    if each.comparison is not None:
        yield f"\n{describe_comparison(each.comparison)}"
    for proposal in each.dropped:
        yield f"\nDropped, made of {proposal.parent.version}: {proposal.dropped}"
        if proposal.prompt_template is not None:
            yield f"\n{_fenced(proposal.prompt_template.template)}"


def _fenced(text: str) -> str:
    """Return text as a code block, whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
