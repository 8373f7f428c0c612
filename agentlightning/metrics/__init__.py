"""Counters and histograms of a service, to Prometheus, to the log, or to several places at once."""

from agentlightning.metrics.base import Labels, MetricsBackend, MultiMetricsBackend
from agentlightning.metrics.console import ConsoleMetricsBackend
from agentlightning.metrics.prometheus import PrometheusMetricsBackend

__all__ = [
    "ConsoleMetricsBackend",
    "Labels",
    "MetricsBackend",
    "MultiMetricsBackend",
    "PrometheusMetricsBackend",
]
