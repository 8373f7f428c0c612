"""A gateway's counts in Prometheus' format."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from agentlightning.errors import MissingExtra
from agentlightning.extras import needed_for
from agentlightning.llm_proxy.answers import refusal, response_of
from agentlightning.llm_proxy.hold import Gate
from agentlightning.llm_proxy.metrics import SECONDS, Histogram, Meter, Series
from agentlightning.llm_proxy.shipper import Shipper

_LABELS: Final = ("model", "path")


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that is read when somebody asks.

    Attributes:
        name: Its name, without the prefix that all metrics have.
        help: What it says.
        read: Returns it.
    """

    name: str
    help: str
    read: Callable[[], float]


class Exposition:
    """Answers `/metrics`.

    Args:
        meter: Counts calls.
        gate: Where calls are held.
        gauges: What else there is to read.
    """

    def __init__(self, meter: Meter, gate: Gate, gauges: tuple[Gauge, ...] = ()) -> None:
        self._meter = meter
        self._gauges = (
            Gauge("in_flight", "Calls that backends work on.", lambda: gate.in_flight),
            Gauge("held", "Calls that wait until they may go on.", lambda: gate.held),
            Gauge("paused", "1 while calls are held.", lambda: gate.closed),
            Gauge("lapsed_holds", "Holds whose owner gave no sign of life.", lambda: gate.lapsed),
            *gauges,
        )

    async def metrics(self, request: Request) -> Response:
        """Return all metrics in the format that the client prefers."""
        try:
            with needed_for("/metrics"):
                prometheus: Any = importlib.import_module("prometheus_client.exposition")
        except MissingExtra as error:
            return response_of(refusal(501, str(error), "missing_extra"))
        registry: Any = _core().CollectorRegistry()
        registry.register(self)
        encode, media_type = prometheus.choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": media_type})

    def collect(self) -> Iterator[Any]:
        """Return the metrics; called by Prometheus' registry."""
        requests = _core().CounterMetricFamily(_named("requests"), "Calls by HTTP status.", labels=(*_LABELS, "status"))
        for labels, series in self._meter.series.items():
            for status, number in series.statuses.items():
                requests.add_metric((*labels, str(status)), number)
        yield requests
        yield self._histogram("request_seconds", "Until a call's answer was complete.", lambda each: each.latency)
        yield self._histogram("time_to_first_token_seconds", "Until a stream began.", lambda each: each.first_token)
        yield self._counter("prompt_tokens", "Tokens that models read.", lambda each: each.prompt_tokens)
        yield self._counter("completion_tokens", "Tokens that models wrote.", lambda each: each.completion_tokens)
        yield self._counter("retries", "Requests that were made again.", lambda each: each.retries)
        for gauge in self._gauges:
            yield _core().GaugeMetricFamily(_named(gauge.name), gauge.help, gauge.read())

    def _counter(self, name: str, what: str, read: Callable[[Series], float]) -> Any:
        family = _core().CounterMetricFamily(_named(name), what, labels=_LABELS)
        for labels, series in self._meter.series.items():
            family.add_metric(labels, read(series))
        return family

    def _histogram(self, name: str, what: str, read: Callable[[Series], Histogram]) -> Any:
        family = _core().HistogramMetricFamily(_named(name), what, labels=_LABELS)
        for labels, series in self._meter.series.items():
            histogram = read(series)
            family.add_metric(labels, _buckets(histogram), histogram.total)
        return family


def gauges_of(shipper: Shipper) -> tuple[Gauge, ...]:
    """Return what there is to read of the way from the journal to the store."""
    return (
        Gauge("capture_queue", "Calls that wait for the store.", lambda: shipper.waiting),
        Gauge("spill_bytes", "What they take on disk.", lambda: shipper.journal_bytes),
        Gauge("lost_calls", "Calls that were answered and never reach the store.", lambda: shipper.losses.total),
        Gauge("journal_full", "Those of them that the journal did not take.", lambda: shipper.losses.journal_full),
    )


def _core() -> Any:
    return importlib.import_module("prometheus_client.core")  # an extra, whose types may not be there either


def _named(name: str) -> str:
    return f"agl_gateway_{name}"


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the counts as Prometheus has them: each bucket with all those below it."""
    below, buckets = 0, list[tuple[str, float]]()
    for bound, count in zip((*map(str, SECONDS), "+Inf"), histogram.counts, strict=True):
        below += count
        buckets.append((bound, below))
    return buckets
