"""Metrics that Prometheus reads."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from agentlightning.errors import ConfigurationError
from agentlightning.extras import needed_for
from agentlightning.metrics.base import Labels, MetricsBackend
from agentlightning.metrics.registered import Registered


class PrometheusMetricsBackend(MetricsBackend):
    """Keeps metrics for Prometheus; `exposition` is what a scrape is answered.

    Each backend has its own registry, so a process may have several. Names get underscores for all that Prometheus does
    not take.

    Raises:
        MissingExtra: prometheus_client is not installed.

    Attributes:
        registry: The `CollectorRegistry`, for a server of your own.
    """

    def __init__(self) -> None:
        with needed_for("PrometheusMetricsBackend"):
            self._library: Any = importlib.import_module("prometheus_client")
            self._encoders: Any = importlib.import_module("prometheus_client.exposition")
        self.registry: Any = self._library.CollectorRegistry()
        self._registered = Registered()
        self._collectors: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def has_prometheus(self) -> bool:
        """It has."""
        return True

    def register_counter(
        self, name: str, label_names: Sequence[str] | None = None, group_level: int | None = None
    ) -> None:
        """See `MetricsBackend.register_counter`; Prometheus groups by itself."""
        if metric := self._registered.add(name, "counter", label_names, None, group_level):
            self._collectors[name] = self._library.Counter(
                self._named(name), name, metric.label_names, registry=self.registry
            )

    def register_histogram(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        buckets: Sequence[float] | None = None,
        group_level: int | None = None,
    ) -> None:
        """See `MetricsBackend.register_histogram`; Prometheus groups by itself."""
        if metric := self._registered.add(name, "histogram", label_names, buckets, group_level):
            bounds = {"buckets": metric.buckets} if metric.buckets else {}
            self._collectors[name] = self._library.Histogram(
                self._named(name), name, metric.label_names, registry=self.registry, **bounds
            )

    async def inc_counter(self, name: str, amount: float = 1.0, labels: Labels | None = None) -> None:
        """See `MetricsBackend.inc_counter`."""
        values = self._registered.find(name, "counter").values_of(labels)
        (self._collectors[name].labels(*values) if values else self._collectors[name]).inc(amount)

    async def observe_histogram(self, name: str, value: float, labels: Labels | None = None) -> None:
        """See `MetricsBackend.observe_histogram`."""
        values = self._registered.find(name, "histogram").values_of(labels)
        (self._collectors[name].labels(*values) if values else self._collectors[name]).observe(value)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics, and the media type that they have.

        Args:
            accept: The scraper's `Accept` header.
        """
        encode, media_type = self._encoders.choose_encoder(accept)
        return encode(self.registry), media_type

    def _named(self, name: str) -> str:
        allowed = re.sub(r"[^a-zA-Z0-9_:]", "_", name)
        known = self._names.setdefault(allowed.removesuffix("_total"), name)
        if known != name:
            raise ConfigurationError(f"{name} and {known} are both {allowed} in Prometheus: rename one of them")
        return allowed
