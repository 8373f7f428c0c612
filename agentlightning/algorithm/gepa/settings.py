"""What GEPA was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeAlias, get_args

from agentlightning.algorithm.prompt_search import check_number, check_whole
from agentlightning.errors import ConfigurationError

Selection: TypeAlias = Literal["pareto", "current_best", "epsilon_greedy", "top_k_pareto"]
"""Which candidates become parents."""
ModuleSelector: TypeAlias = Literal["round_robin", "all"]
"""Which prompts of a candidate are rewritten: the next one, or all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The parameters of `GEPA` that its search needs.

    Attributes:
        model: The reflection model.
        max_metric_calls: The most rollouts.
        prompts: Names of the resources to evolve; None for all that are prompts.
        minibatch: How many tasks a reflection sees.
        proposals: Candidates of an iteration.
        selection: Which candidates become parents.
        module_selector: Which of a candidate's prompts are rewritten.
        template: The question to the reflection model; None for GEPA's own.
        perfect_score: The highest reward; None for no such bound.
        timeout: Seconds that the rollouts of an evaluation have together.
        seed: Of all that is drawn.

    Raises:
        ConfigurationError: A value is out of range, or the template lacks a placeholder.
    """

    model: str
    max_metric_calls: int
    prompts: Sequence[str] | None
    minibatch: int
    proposals: int
    selection: Selection
    module_selector: ModuleSelector
    template: str | None
    perfect_score: float | None
    timeout: float
    seed: int

    def __post_init__(self) -> None:
        check_whole("reflection_minibatch_size", self.minibatch, 1)
        check_whole("proposals", self.proposals, 1)
        check_whole("max_metric_calls", self.max_metric_calls, 1)
        check_whole("seed", self.seed)
        check_number("rollout_batch_timeout", self.timeout, above=0)
        if self.perfect_score is not None:
            check_number("perfect_score", self.perfect_score)
        if self.prompts is not None and not self.prompts:
            raise ConfigurationError(
                "prompts=[] leaves nothing to evolve: name resources, or give None for all prompts"
            )
        _check_choice("candidate_selection_strategy", self.selection, get_args(Selection))
        _check_choice("module_selector", self.module_selector, get_args(ModuleSelector))
        lacking = [each for each in ("<curr_param>", "<side_info>") if self.template and each not in self.template]
        if lacking:
            raise ConfigurationError(f"reflection_prompt_template lacks {' and '.join(lacking)}")

    def iteration(self, validation: int) -> int:
        """Return the most rollouts of an iteration, with so many validation tasks."""
        return self.proposals * (2 * self.minibatch + validation)

    def for_tasks(self, training: int, validation: int) -> Self:
        """Return what suits so many tasks.

        Raises:
            ConfigurationError: The budget is gone before a single candidate was tried.
        """
        suited = replace(self, minibatch=min(self.minibatch, training))
        least = validation + suited.iteration(validation)
        if suited.max_metric_calls < least:
            raise ConfigurationError(
                f"max_metric_calls={self.max_metric_calls} ends before a candidate is tried: that takes {least} "
                f"rollouts, {validation} for the validation tasks with the initial prompts and {least - validation} "
                "for an iteration; allow more, or give fewer validation tasks"
            )
        return suited


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name} must be one of {list(choices)}, not {value!r}")
