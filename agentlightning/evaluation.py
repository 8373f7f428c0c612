"""Honest comparison: the same tasks before and after, and how sure the difference is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from agentlightning.errors import ConfigurationError

_Z_95 = 1.959964
"""97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean change per task, with its 95 % confidence interval.

    Attributes:
        mean: Mean of after minus before.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `no evidence of a difference` when the interval holds 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no evidence of a difference"


def paired_difference(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Compare the results of the same tasks, task by task.

    The interval is the normal one for a mean of paired differences, mean ± 1.96 · s / √n.

    Args:
        before: One result per task.
        after: One result per task, in the same order.

    Raises:
        ConfigurationError: The lengths differ, or there are fewer than two tasks.
    """
    if len(before) != len(after) or len(before) < 2:
        raise ConfigurationError(f"pairs of at least two tasks are needed, not {len(before)} and {len(after)} results")
    changes = [later - earlier for earlier, later in zip(before, after, strict=True)]
    mean = statistics.fmean(changes)
    margin = _Z_95 * statistics.stdev(changes) / math.sqrt(len(changes))
    return PairedDifference(mean, mean - margin, mean + margin)
