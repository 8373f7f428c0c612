"""Algorithms: what decides which tasks are run, and what is learned from them."""

from typing import TYPE_CHECKING, Any

from agentlightning.algorithm.base import Algorithm, FastAlgorithm
from agentlightning.algorithm.baseline import Baseline
from agentlightning.algorithm.decorator import FunctionalAlgorithm, algo

if TYPE_CHECKING:
    from agentlightning.algorithm.grpo import GRPO

__all__ = ["GRPO", "Algorithm", "Baseline", "FastAlgorithm", "FunctionalAlgorithm", "algo"]


def __getattr__(name: str) -> Any:
    if name != "GRPO":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentlightning.algorithm.grpo import GRPO  # needs torch, which the rest does not

    return GRPO
