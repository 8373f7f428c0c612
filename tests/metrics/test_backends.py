"""Backends take what is registered and refuse what is not; each shows it in its own way."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.metrics import (
    ConsoleMetricsBackend,
    MetricsBackend,
    MultiMetricsBackend,
    PrometheusMetricsBackend,
)
from tests.metrics.exposed import samples

BACKENDS: dict[str, Callable[[], MetricsBackend]] = {
    "console": ConsoleMetricsBackend,
    "prometheus": PrometheusMetricsBackend,
    "both": lambda: MultiMetricsBackend([ConsoleMetricsBackend(), PrometheusMetricsBackend()]),
}


class Clock:
    """Says the time that it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("kind", BACKENDS)
async def test_what_was_not_registered_so_is_refused(kind: str) -> None:
    backend = BACKENDS[kind]()
    backend.register_counter("shop.sales", ["town"])
    backend.register_counter("shop.sales", ["town"])
    backend.register_histogram("shop.queue", buckets=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"shop\.sales is registered already"):
        backend.register_counter("shop.sales", ["street"])
    with pytest.raises(ValueError, match=r"shop\.sales is registered already"):
        backend.register_histogram("shop.sales", ["town"])
    with pytest.raises(ValueError, match=r"shop\.queue is registered already"):
        backend.register_histogram("shop.queue", buckets=[1.0])
    with pytest.raises(ValueError, match=r"there is no counter shop\.losses"):
        await backend.inc_counter("shop.losses")
    with pytest.raises(ValueError, match=r"there is no histogram shop\.sales"):
        await backend.observe_histogram("shop.sales", 1.0, {"town": "Bath"})
    with pytest.raises(ValueError, match=r"shop\.sales has the labels town, not none"):
        await backend.inc_counter("shop.sales")
    with pytest.raises(ValueError, match=r"shop\.sales has the labels town, not town, street"):
        await backend.inc_counter("shop.sales", 1.0, {"town": "Bath", "street": "Mill Lane"})


async def test_prometheus_reads_counts_and_buckets() -> None:
    first, second = PrometheusMetricsBackend(), PrometheusMetricsBackend()
    assert MultiMetricsBackend([ConsoleMetricsBackend(), first]).has_prometheus()
    assert not MultiMetricsBackend([ConsoleMetricsBackend()]).has_prometheus()
    for backend in (first, second):
        backend.register_counter("shop.sales.total", ["town"])
        backend.register_histogram("shop.queue", buckets=[1.0, 2.0])
    await first.inc_counter("shop.sales.total", 2.0, {"town": "Bath"})
    await first.inc_counter("shop.sales.total", labels={"town": "Bath"})
    for minutes in (0.5, 1.5, 9.0):
        await first.observe_histogram("shop.queue", minutes)
    assert samples(first) == {
        "shop_sales_total town=Bath": 3.0,
        "shop_queue_bucket le=1.0": 1.0,
        "shop_queue_bucket le=2.0": 2.0,
        "shop_queue_bucket le=+Inf": 3.0,
        "shop_queue_count": 3.0,
        "shop_queue_sum": 11.0,
    }
    assert "shop_sales_total town=Bath" not in samples(second)


def test_two_names_that_are_one_in_prometheus_are_refused() -> None:
    backend = PrometheusMetricsBackend()
    backend.register_counter("shop.sales")
    with pytest.raises(ConfigurationError, match=r"shop_sales and shop\.sales are both shop_sales"):
        backend.register_counter("shop_sales")


async def test_the_log_gets_one_line_with_all_metrics_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agentlightning.metrics")
    clock = Clock()
    backend = ConsoleMetricsBackend(window_seconds=20.0, log_interval_seconds=10.0, clock=clock)
    backend.register_counter("shop.sales", ["town", "street"], group_level=1)
    backend.register_histogram("shop.queue")
    for second in range(10):
        clock.now = float(second)
        await backend.inc_counter("shop.sales", 3.0, {"town": "Bath", "street": str(second)})
    assert caplog.messages == []
    clock.now = 10.0
    await backend.observe_histogram("shop.queue", 4.0)
    assert caplog.messages == ["shop.queue p50=4 p95=4 p99=4; shop.sales{Bath} 3/s"]
    clock.now = 40.0  # all that was counted is older than the window
    for value in range(1, 101):
        await backend.observe_histogram("shop.queue", float(value))
    clock.now = 51.0
    await backend.observe_histogram("shop.queue", 1.0)
    assert caplog.messages[1:] == [
        "shop.queue p50=1 p95=1 p99=1",
        "shop.queue p50=50 p95=95 p99=99",
    ]


async def test_what_is_remembered_for_the_log_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agentlightning.metrics")
    clock = Clock()
    backend = ConsoleMetricsBackend(window_seconds=None, log_interval_seconds=1e9, clock=clock)
    backend.register_counter("ticks")
    for number in range(10_000):
        clock.now = float(number)
        await backend.inc_counter("ticks")
    clock.now = 1e9
    await backend.inc_counter("ticks", 0.0)
    assert caplog.messages == ["ticks 4.095e-06/s"]


def test_a_window_must_have_a_length() -> None:
    with pytest.raises(ValueError, match="window_seconds"):
        ConsoleMetricsBackend(window_seconds=0)
