"""Honest evaluation: an agent with one set of resources or two, on the same frozen tasks."""

from agentlightning.algorithm.paired import Interval, PairedDifference, paired_difference
from agentlightning.evaluation.result import EvaluatedSet, EvaluationResult, TaskSample
from agentlightning.evaluation.run import evaluate
from agentlightning.evaluation.usage import Prices, Usage

__all__ = [
    "EvaluatedSet",
    "EvaluationResult",
    "Interval",
    "PairedDifference",
    "Prices",
    "TaskSample",
    "Usage",
    "evaluate",
    "paired_difference",
]
