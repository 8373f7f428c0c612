"""Metrics in the log, now and then."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from agentlightning.errors import ConfigurationError
from agentlightning.metrics.base import Labels, MetricsBackend
from agentlightning.metrics.registered import Kind, Metric, Registered

logger = logging.getLogger(__name__)

_KEPT: Final = 4096
"""Counts, and values, that a series remembers at most: the newest."""
_QUANTILES: Final = (0.5, 0.95, 0.99)

Key: TypeAlias = tuple[str, tuple[str, ...]]


@dataclass(slots=True)
class _Series:
    """What was counted or measured under one name and one set of labels: when, and what."""

    kind: Kind
    events: deque[tuple[float, float]] = field(default_factory=lambda: deque[tuple[float, float]](maxlen=_KEPT))

    def forget(self, before: float) -> None:
        while self.events and self.events[0][0] < before:
            self.events.popleft()


class ConsoleMetricsBackend(MetricsBackend):
    """Writes one line with all metrics to the log, at most once in `log_interval_seconds`, when something is counted.

    Counters are rates a second, histograms the 50th, 95th and 99th percentile, of the last `window_seconds` and at most
    4,096 events.

    Args:
        window_seconds: How far a line looks back; None for as far as is remembered.
        log_interval_seconds: The least time between two lines.
        group_level: How many labels of each metric are told apart, where its registration does not say.
        clock: Says the time in seconds.

    Raises:
        ConfigurationError: A number is out of range.
    """

    def __init__(
        self,
        window_seconds: float | None = 60.0,
        log_interval_seconds: float = 10.0,
        group_level: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if window_seconds is not None and window_seconds <= 0:
            raise ConfigurationError(f"window_seconds must be above 0, or None, and is {window_seconds}")
        self._window = window_seconds
        self._interval = log_interval_seconds
        self._group_level = group_level
        self._clock = clock
        self._registered = Registered()
        self._series: dict[Key, _Series] = {}
        self._began = self._logged = clock()

    def register_counter(
        self, name: str, label_names: Sequence[str] | None = None, group_level: int | None = None
    ) -> None:
        """See `MetricsBackend.register_counter`."""
        self._registered.add(name, "counter", label_names, None, group_level)

    def register_histogram(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        buckets: Sequence[float] | None = None,
        group_level: int | None = None,
    ) -> None:
        """See `MetricsBackend.register_histogram`; the buckets are for others."""
        self._registered.add(name, "histogram", label_names, buckets, group_level)

    async def inc_counter(self, name: str, amount: float = 1.0, labels: Labels | None = None) -> None:
        """See `MetricsBackend.inc_counter`."""
        self._note(self._registered.find(name, "counter"), amount, labels)

    async def observe_histogram(self, name: str, value: float, labels: Labels | None = None) -> None:
        """See `MetricsBackend.observe_histogram`."""
        self._note(self._registered.find(name, "histogram"), value, labels)

    def _note(self, metric: Metric, value: float, labels: Labels | None) -> None:
        level = self._group_level if metric.group_level is None else metric.group_level
        key = metric.name, metric.values_of(labels)[:level]
        now = self._clock()
        self._series.setdefault(key, _Series(metric.kind)).events.append((now, value))
        if now - self._logged >= self._interval:
            self._logged = now
            self._log(now)

    def _log(self, now: float) -> None:
        told: list[str] = []
        for (name, labels), series in sorted(self._series.items(), key=lambda item: item[0]):
            if self._window is not None:
                series.forget(now - self._window)
            if series.events:
                told.append(f"{name}{_braced(labels)} {self._words_for(series, now)}")
        if told:
            logger.info("%s", "; ".join(told))

    def _words_for(self, series: _Series, now: float) -> str:
        values = sorted(value for _, value in series.events)
        if series.kind == "histogram":
            return " ".join(f"p{100 * share:g}={_rank(values, share):.4g}" for share in _QUANTILES)
        began = series.events[0][0] if len(series.events) == _KEPT else self._began
        span = now - began if self._window is None else min(now - began, self._window)
        return f"{sum(values) / span:.4g}/s" if span > 0 else f"{sum(values):g} at once"


def _rank(values: list[float], share: float) -> float:
    return values[max(math.ceil(share * len(values)) - 1, 0)]


def _braced(labels: tuple[str, ...]) -> str:
    return f"{{{','.join(labels)}}}" if labels else ""
