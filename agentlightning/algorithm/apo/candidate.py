"""A prompt that is tried, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from agentlightning.algorithm.prompt_search import Scored
from agentlightning.types import PromptTemplate, RolloutMode


@dataclass(frozen=True, slots=True)
class Score:
    """How good a prompt is on some tasks.

    Attributes:
        mean: Mean reward; a failed or unrewarded rollout counts as the lowest reward that was seen, and at most 0.
        standard_error: Of the mean; None of a single task.
        tasks: How many tasks.
        failed: How many rollouts failed.
    """

    mean: float
    standard_error: float | None
    tasks: int
    failed: int

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.3f}"
        return f"{self.mean:.3f}{error}"


@dataclass(slots=True, eq=False)
class Candidate:
    """A prompt that is tried.

    Attributes:
        version: `v0` is the prompt to begin with; others are counted in the order in which they were proposed.
        prompt_template: The prompt.
        parent: Version of the prompt that it was made of; None of the first.
        round: The round in which it was proposed; 0 of the first.
        critique: What it answers; None of the first.
        results: How each task went with it, by mode and number: what was run is not run again.
    """

    version: str
    prompt_template: PromptTemplate
    parent: str | None = None
    round: int = 0
    critique: str | None = None
    results: dict[RolloutMode, dict[int, Scored]] = field(default_factory=lambda: {"train": {}, "val": {}})

    def missing(self, mode: RolloutMode, tasks: Iterable[int]) -> list[int]:
        """Return those of the tasks that it was not tried on."""
        return [task for task in dict.fromkeys(tasks) if task not in self.results[mode]]

    def rewards(self, mode: RolloutMode, tasks: Iterable[int], worst: float) -> list[float]:
        """Return the reward of each task; `worst` stands where there is none."""
        return [self.results[mode][task].value(worst) for task in tasks]

    def score(self, mode: RolloutMode, tasks: Sequence[int], worst: float) -> Score:
        """Return how good it is on tasks that it was tried on; `worst` stands where there is no reward."""
        rewards = self.rewards(mode, tasks, worst)
        error = stdev(rewards) / math.sqrt(len(rewards)) if len(rewards) > 1 else None
        failed = sum(self.results[mode][task].error is not None for task in tasks)
        return Score(fmean(rewards), error, len(rewards), failed)
