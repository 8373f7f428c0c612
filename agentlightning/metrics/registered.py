"""Which metrics a backend knows, and the errors of those that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from agentlightning.errors import ConfigurationError
from agentlightning.metrics.base import Labels

Kind: TypeAlias = Literal["counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that was registered.

    Attributes:
        name: Its name.
        kind: What it is.
        label_names: The labels that each count or value has.
        buckets: Upper bounds of a histogram, where given.
        group_level: How many of the labels are told apart where people read.
    """

    name: str
    kind: Kind
    label_names: tuple[str, ...]
    buckets: tuple[float, ...] | None
    group_level: int | None

    def values_of(self, labels: Labels | None) -> tuple[str, ...]:
        """Return the labels' values in order.

        Raises:
            ConfigurationError: One is missing, or one too many is there.
        """
        given = labels or {}
        if given.keys() != set(self.label_names):
            raise ConfigurationError(
                f"{self.name} has the labels {', '.join(self.label_names) or 'none'}, not {', '.join(given) or 'none'}"
            )
        return tuple(str(given[name]) for name in self.label_names)


class Registered:
    """The metrics that were registered with a backend."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def add(
        self,
        name: str,
        kind: Kind,
        label_names: Sequence[str] | None,
        buckets: Sequence[float] | None,
        group_level: int | None,
    ) -> Metric | None:
        """Register a metric; returns None where it is known already.

        Raises:
            ConfigurationError: It is known as something else.
        """
        metric = Metric(name, kind, tuple(label_names or ()), tuple(buckets) if buckets else None, group_level)
        known = self._metrics.get(name)
        if known is None:
            self._metrics[name] = metric
            return metric
        if replace(known, group_level=group_level) != metric:
            raise ConfigurationError(f"{name} is registered already, as a {known.kind} with other labels or buckets")
        return None

    def find(self, name: str, kind: Kind) -> Metric:
        """Return a metric.

        Raises:
            ConfigurationError: There is none of this name and kind.
        """
        metric = self._metrics.get(name)
        if metric is None or metric.kind != kind:
            raise ConfigurationError(f"there is no {kind} {name}: call register_{kind}({name!r}, …) first")
        return metric
