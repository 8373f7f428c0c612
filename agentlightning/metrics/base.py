"""What every place for metrics can do, and all of them as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Labels: TypeAlias = Mapping[str, str]


class MetricsBackend:
    """Takes counts and measurements of metrics that were registered before."""

    def has_prometheus(self) -> bool:
        """Whether Prometheus can read them."""
        return False

    def register_counter(
        self, name: str, label_names: Sequence[str] | None = None, group_level: int | None = None
    ) -> None:
        """Make a counter known; doing it twice changes nothing.

        Args:
            name: Its name, with dots between words.
            label_names: What its counts are told apart by.
            group_level: How many of the labels count where people read; all by default.

        Raises:
            ConfigurationError: It was registered as something else.
        """
        raise NotImplementedError

    def register_histogram(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        buckets: Sequence[float] | None = None,
        group_level: int | None = None,
    ) -> None:
        """Make a histogram known; doing it twice changes nothing.

        Args:
            name: Its name, with dots between words.
            label_names: What its values are told apart by.
            buckets: Upper bounds, where it keeps buckets.
            group_level: How many of the labels count where people read; all by default.

        Raises:
            ConfigurationError: It was registered as something else.
        """
        raise NotImplementedError

    async def inc_counter(self, name: str, amount: float = 1.0, labels: Labels | None = None) -> None:
        """Count.

        Raises:
            ConfigurationError: There is no such counter, or these are not its labels.
        """
        raise NotImplementedError

    async def observe_histogram(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Note a value.

        Raises:
            ConfigurationError: There is no such histogram, or these are not its labels.
        """
        raise NotImplementedError


class MultiMetricsBackend(MetricsBackend):
    """Passes everything to several others.

    Args:
        backends: The others.
    """

    def __init__(self, backends: Sequence[MetricsBackend]) -> None:
        self.backends = tuple(backends)

    def has_prometheus(self) -> bool:
        """Whether one of them has."""
        return any(backend.has_prometheus() for backend in self.backends)

    def register_counter(
        self, name: str, label_names: Sequence[str] | None = None, group_level: int | None = None
    ) -> None:
        """See `MetricsBackend.register_counter`."""
        for backend in self.backends:
            backend.register_counter(name, label_names, group_level)

    def register_histogram(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        buckets: Sequence[float] | None = None,
        group_level: int | None = None,
    ) -> None:
        """See `MetricsBackend.register_histogram`."""
        for backend in self.backends:
            backend.register_histogram(name, label_names, buckets, group_level)

    async def inc_counter(self, name: str, amount: float = 1.0, labels: Labels | None = None) -> None:
        """See `MetricsBackend.inc_counter`."""
        for backend in self.backends:
            await backend.inc_counter(name, amount, labels)

    async def observe_histogram(self, name: str, value: float, labels: Labels | None = None) -> None:
        """See `MetricsBackend.observe_histogram`."""
        for backend in self.backends:
            await backend.observe_histogram(name, value, labels)
