"""What Prometheus reads of a backend."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from agentlightning.metrics import PrometheusMetricsBackend


def samples(backend: PrometheusMetricsBackend) -> dict[str, float]:
    """Return what Prometheus reads, by name and labels."""
    text = backend.exposition()[0].decode()
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
