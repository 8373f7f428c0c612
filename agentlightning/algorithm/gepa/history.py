"""What a search tried: every candidate with what it was made from, how good it was, and why it was not kept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from agentlightning._internal.folders import write_whole
from agentlightning.algorithm.paired import PairedDifference, paired_difference

JSON_FILE: Final = "history.json"
MARKDOWN_FILE: Final = "history.md"


@dataclass(slots=True)
class Candidate:
    """One set of prompts that was tried.

    Attributes:
        number: Counts the candidates from 0, the initial prompts.
        parent: Number of the candidate that it was made from; None for the initial prompts.
        texts: The templates, by the name of the resource.
        before: Mean reward of the parent on the tasks that it was made from.
        after: Its own mean reward on them.
        rewards: On the validation tasks, in their order; None if it was not tried on them.
        reason: Why it was given up; None if it was kept.
    """

    number: int
    parent: int | None
    texts: dict[str, str]
    before: float | None = None
    after: float | None = None
    rewards: list[float] | None = None
    reason: str | None = None

    @property
    def score(self) -> float | None:
        """Mean reward on the validation tasks."""
        return None if self.rewards is None else fmean(self.rewards)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the score; None for fewer than two tasks."""
        if self.rewards is None or len(self.rewards) < 2:
            return None
        return stdev(self.rewards) / math.sqrt(len(self.rewards))

    def record(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self) | {"score": self.score, "standard_error": self.standard_error}


class History:
    """What a search did.

    Attributes:
        candidates: In the order in which they were made.
        cost: What it took so far.
    """

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.cost: dict[str, float] = {}

    def add(self, texts: Mapping[str, str], parent: Mapping[str, str] | None = None) -> Candidate:
        """Add a candidate.

        Args:
            texts: Its templates; none if there was nothing to try.
            parent: The templates of the candidate that it was made from; None for the initial prompts.
        """
        kept = [each.number for each in self.candidates if each.texts == parent and each.rewards is not None]
        candidate = Candidate(len(self.candidates), kept[0] if kept else None, dict(texts))
        self.candidates.append(candidate)
        return candidate

    def drop(self, parent: Mapping[str, str], name: str, text: str | None, reason: str) -> None:
        """Add what was given up before it was tried.

        Args:
            parent: The templates that it was made from.
            name: The prompt that was rewritten.
            text: Its new template; None if there is none.
            reason: Why it cannot be tried.
        """
        self.add({} if text is None else {**parent, name: text}, parent).reason = reason

    @property
    def best(self) -> Candidate | None:
        """The one with the highest score, the first of equals; None before any has one."""
        scored = [each for each in self.candidates if each.rewards is not None]
        return max(scored, key=lambda each: each.score or 0.0, default=None)

    def gain(self) -> PairedDifference | None:
        """Compare the best with the initial prompts, task by task; None without two tasks to compare."""
        first, best = self.candidates[0] if self.candidates else None, self.best
        if first is None or best is None or first.rewards is None or best.rewards is None or len(first.rewards) < 2:
            return None
        return paired_difference(first.rewards, best.rewards)

    def write(self, folder: Path) -> None:
        """Write it as JSON and as Markdown."""
        best = self.best
        content = {
            "best": best.number if best else None,
            "cost": self.cost,
            "candidates": [each.record() for each in self.candidates],
        }
        write_whole(folder / JSON_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_whole(folder / MARKDOWN_FILE, "\n".join(self._markdown()) + "\n")

    def summary(self) -> str:
        """Say in two sentences what came of it."""
        best, gain = self.best, self.gain()
        if best is None:
            return "Nothing was tried on the validation tasks."
        if gain is None:
            return f"Candidate {best.number} is the best and scores {_score(best)}."
        return (
            f"Candidate {best.number} is the best and scores {_score(best)}. Against the initial prompts that is "
            f"{gain.mean:+.3f}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}: {gain.verdict}, on the tasks by "
            "which it was chosen."
        )

    def _markdown(self) -> Iterator[str]:
        yield f"# Prompts evolved by GEPA\n\n{self.summary()}\n"
        yield f"{', '.join(f'{name} {count:,}' for name, count in self.cost.items())}.\n"
        yield "| candidate | made from | on its tasks | score | |\n|---|---|---|---|---|"
        for each in self.candidates:
            parent = "" if each.parent is None else str(each.parent)
            tasks = "" if each.before is None or each.after is None else f"{each.before:.3f} → {each.after:.3f}"
            yield f"| {each.number} | {parent} | {tasks} | {_score(each)} | {_fate(each)} |"
        for each in self.candidates:
            yield f"\n## Candidate {each.number}"
            yield from (f"\n{name}:\n\n{_quoted(text)}" for name, text in each.texts.items())


def _score(candidate: Candidate) -> str:
    error = candidate.standard_error
    if candidate.score is None:
        return ""
    return f"{candidate.score:.3f}" if error is None else f"{candidate.score:.3f} ± {error:.3f}"


def _fate(candidate: Candidate) -> str:
    """Say in one cell of a table what became of it."""
    unfinished = "kept" if candidate.rewards is not None else "not tried on the validation tasks"
    return " ".join((candidate.reason or unfinished).split()).replace("|", "\\|")


def _quoted(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
