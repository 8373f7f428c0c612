"""Agents that another process gets by name, or by what pickle makes of them."""

from __future__ import annotations

import multiprocessing
from typing import Any

from agentlightning.litagent import LitAgent, rollout
from agentlightning.types import NamedResources, Rollout


@rollout
def by_name(task: float) -> float:
    return task * 2


class ByState(LitAgent[float]):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def rollout(self, task: float, resources: NamedResources, rollout: Rollout) -> float:
        return task * self.factor


def run(agent: LitAgent[Any], task: float) -> Any:
    return agent.method_for("train")(task, {}, None)


def run_in_spawned_process(agent: LitAgent[Any], task: float) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply_async(run, (agent, task)).get(60)
