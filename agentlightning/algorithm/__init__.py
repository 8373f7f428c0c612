"""Algorithms: what decides which tasks are run, and what is learned from them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from agentlightning import _compat
from agentlightning.algorithm.base import Algorithm, FastAlgorithm
from agentlightning.algorithm.baseline import Baseline
from agentlightning.algorithm.context import AlgorithmContext
from agentlightning.algorithm.decorator import FunctionalAlgorithm, algo
from agentlightning.algorithm.rounds import Outcome, Round
from agentlightning.extras import needed_for

if TYPE_CHECKING:
    from agentlightning.algorithm.apo import APO
    from agentlightning.algorithm.gepa import GEPA
    from agentlightning.algorithm.grpo import GRPO

__all__ = [
    "APO",
    "GEPA",
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

_LATER: Final = {
    "APO": "agentlightning.algorithm.apo",
    "GEPA": "agentlightning.algorithm.gepa",
    "GRPO": "agentlightning.algorithm.grpo",
}
"""Algorithms that are imported when they are first asked for, for what they need: GRPO needs torch."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        _compat.raise_ended(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needed_for(name):
        return getattr(import_module(_LATER[name]), name)
