"""Honest comparison: the same tasks before and after, and how sure the difference is."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import NormalDist, fmean
from typing import Any, Final

from agentlightning.errors import ConfigurationError

_NORMAL: Final = NormalDist()
_Z_95: Final = _NORMAL.inv_cdf(0.975)
_RESAMPLES: Final = 2000
_FEWEST_CHANGES: Final = 6
"""Five changed tasks all go the same way in 2 · 0.5⁵ = 6 % of comparisons of equals, six in 3 %."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over tasks, with its 95 % confidence interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference(Interval):
    """The mean change per task, with its 95 % confidence interval.

    Attributes:
        changed: How many tasks have another result.
    """

    changed: int

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `no evidence of a difference`.

        It is the last when the interval holds 0, and when fewer than six tasks changed.
        """
        if self.changed < _FEWEST_CHANGES or self.low <= 0 <= self.high:
            return "no evidence of a difference"
        return "better" if self.low > 0 else "worse"


def paired_difference(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Compare the results of the same tasks, task by task; see `paired_differences`."""
    return paired_differences([(before, after)])[0]


def paired_differences(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[PairedDifference]:
    """Compare results before and after, several times over the same number of tasks.

    Args:
        pairs: Results before and after: one per task, in the same order.

    Raises:
        ConfigurationError: The lengths differ, or there are fewer than two tasks.
    """
    columns: list[list[float]] = []
    for before, after in pairs:
        if len(before) != len(after):
            raise ConfigurationError(
                f"pairs of at least two tasks are needed, not {len(before)} and {len(after)} results"
            )
        columns.append([later - earlier for earlier, later in zip(before, after, strict=True)])
    intervals = mean_intervals(columns)
    return [
        PairedDifference(interval.mean, interval.low, interval.high, sum(change != 0 for change in column))
        for interval, column in zip(intervals, columns, strict=True)
    ]


def mean_intervals(columns: Sequence[Sequence[float]]) -> list[Interval]:
    """Return the mean of each column with its interval, by bootstrap over tasks.

    Tasks are drawn anew, with replacement, 2000 times; the interval is what the middle of these means covers, widened
    for few tasks, where the plain percentiles are too narrow. The draws are the same at every call, so that the same
    results have the same interval.

    Args:
        columns: One value per task each; all of one length.

    Raises:
        ConfigurationError: There are fewer than two tasks, or the lengths differ.
    """
    counts = {len(column) for column in columns}
    count = min(counts, default=0)
    if len(counts) != 1 or count < 2:
        raise ConfigurationError(f"pairs of at least two tasks are needed, not {count} results")
    drawn: list[list[float]] = [[] for _ in columns]
    for draw in _draws(count):
        for column, means in zip(columns, drawn, strict=True):
            means.append(sum(draw(column)) / count)
    cut = int(_tail(count) * _RESAMPLES)
    return [
        Interval(fmean(column), means[cut], means[-1 - cut])
        for column, means in zip(columns, map(sorted, drawn), strict=True)
    ]


def _draws(count: int) -> Iterator[itemgetter[Any]]:
    rng, places = random.Random(0), list(range(count))
    for _ in range(_RESAMPLES):
        yield itemgetter(*rng.choices(places, k=count))


def _tail(count: int) -> float:
    """Return the share of the means to cut off at each end.

    Student's quantile by its Cornish-Fisher series, and √(n/(n-1)) because a bootstrap's variance divides by n.
    """
    z, free = _Z_95, count - 1
    student = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return _NORMAL.cdf(-student * math.sqrt(count / free))
