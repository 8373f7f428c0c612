"""Algorithms: what decides which tasks are run, and what is learned from them."""

from typing import TYPE_CHECKING, Any

from agentlightning.algorithm.base import Algorithm, FastAlgorithm
from agentlightning.algorithm.baseline import Baseline
from agentlightning.algorithm.context import AlgorithmContext
from agentlightning.algorithm.decorator import FunctionalAlgorithm, algo
from agentlightning.algorithm.rounds import Outcome, Round
from agentlightning.extras import needed_for

if TYPE_CHECKING:
    from agentlightning.algorithm.grpo import GRPO

__all__ = [
    "GRPO",
    "Algorithm",
    "AlgorithmContext",
    "Baseline",
    "FastAlgorithm",
    "FunctionalAlgorithm",
    "Outcome",
    "Round",
    "algo",
]


def __getattr__(name: str) -> Any:
    if name != "GRPO":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needed_for("GRPO"):  # torch, which the other algorithms do without
        from agentlightning.algorithm.grpo import GRPO

    return GRPO
