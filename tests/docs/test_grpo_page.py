"""The page on GRPO names every setting with its default, and every figure that is written."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import agentlightning as agl
from agentlightning.adapter import merge_calls
from agentlightning.algorithm.group_sampling import RolloutSample, describe_groups
from agentlightning.algorithm.policy_evaluation import Evaluation
from agentlightning.learner import StepMetrics

PAGE = (Path(__file__).parents[2] / "docs" / "grpo.md").read_text("utf-8")


def rows(heading: str) -> dict[str, str]:
    """The first column of the table below a heading, and the second."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", section, re.MULTILINE))


def test_every_setting_is_listed_with_its_default() -> None:
    parameters = inspect.signature(agl.GRPO).parameters
    defaults = {
        name: "needed" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        for name, parameter in parameters.items()
    }
    assert rows("Settings") == defaults


def test_every_figure_of_a_step_is_listed() -> None:
    sample = RolloutSample(
        rollout=agl.Rollout(rollout_id="r", input=None, start_time=0.0),
        reward=1.0,
        error=None,
        trajectories=merge_calls([]),
        truncated=False,
    )
    written = {"kind", "step", "steps", "learning_seconds", *describe_groups([[sample]], 1.0)}
    assert rows("Metrics").keys() == written | {field.name for field in fields(StepMetrics)}


def test_every_figure_of_an_evaluation_is_listed() -> None:
    rewards = [0.0, 1.0]
    evaluation = Evaluation(version=0, temperature=1.0, rewards=rewards, failed=0, turns=1.0, tokens=1, seconds=1.0)
    assert rows("Evaluations").keys() == evaluation.record(before=evaluation).keys()
