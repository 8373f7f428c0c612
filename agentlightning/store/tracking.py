"""What a store's server is asked, counted for a metrics backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentlightning.errors import AgentLightningError
from agentlightning.metrics import MetricsBackend, MultiMetricsBackend, PrometheusMetricsBackend
from agentlightning.store.access import Access, check_role
from agentlightning.store.base import LightningStore
from agentlightning.store.operations import routes_of
from agentlightning.store.otlp.paths import TRACES_PATH
from agentlightning.store.route_table import PREFIX, NoRoute, RouteTable

METRICS_PATH: Final = "/v1/prometheus"
"""Where Prometheus reads; with a slash behind it, too, as v0.3 has it."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DURATIONS: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
_GONE, _CRASHED = 499, 520
_PAGE: Final = 1000


class Tracking:
    """Counts the requests to a store's server, and answers Prometheus.

    `agl.http.total` and `agl.http.latency` have the labels path, method and status: 499 is a client that went away, 520
    a crash. `agl.store.total` and `agl.store.latency` have operation and status. `agl.rollouts.total` and
    `agl.rollouts.duration`, with status and mode, are of all rollouts that have finished, brought up to date when
    Prometheus reads.

    Args:
        app: The store's server.
        store: The store.
        access: Who may read.
        backend: Takes the counts.
        clock: Says the time in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        store: LightningStore,
        access: Access,
        backend: MetricsBackend,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._store = store
        self._access = access
        self._backend = backend
        self._clock = clock
        self._routes = RouteTable(routes_of(type(store)))
        self._prometheus = prometheus_in(backend)
        self._cursor = 0
        self._reading = asyncio.Lock()  # two scrapes at once would count a rollout twice
        for kind, labels in (("http", ("path", "method", "status")), ("store", ("operation", "status"))):
            backend.register_counter(f"agl.{kind}.total", labels, 1)
            backend.register_histogram(f"agl.{kind}.latency", labels, _SECONDS, 1)
        backend.register_counter("agl.rollouts.total", ("status", "mode"))
        backend.register_histogram("agl.rollouts.duration", ("status", "mode"), _DURATIONS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and count it."""
        if scope["path"].rstrip("/") == METRICS_PATH and self._prometheus is not None:
            await self._answer(scope, send)
            return
        began, status = self._clock(), _GONE

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            status = _CRASHED
            raise
        finally:
            await self._count(scope, str(status), self._clock() - began)

    async def _count(self, scope: Scope, status: str, seconds: float) -> None:
        path, operation = self._place_of(scope)
        labels = {"path": path, "method": scope["method"], "status": status}
        await self._backend.inc_counter("agl.http.total", 1.0, labels)
        await self._backend.observe_histogram("agl.http.latency", seconds, labels)
        if operation is not None:
            labels = {"operation": operation, "status": status}
            await self._backend.inc_counter("agl.store.total", 1.0, labels)
            await self._backend.observe_histogram("agl.store.latency", seconds, labels)

    def _place_of(self, scope: Scope) -> tuple[str, str | None]:
        """Return the path without ids, and the operation; all paths that nobody serves have one name."""
        path = scope["raw_path"].decode("latin-1")
        if not path.startswith(PREFIX):
            return (path if path == TRACES_PATH else "other"), None
        try:
            operation = self._routes.find(scope["method"], path[len(PREFIX) :])[0].operation
        except NoRoute:
            return "other", None
        return PREFIX + operation.path, operation.name

    async def _answer(self, scope: Scope, send: Send) -> None:
        assert self._prometheus is not None
        headers = dict(scope["headers"])
        try:
            check_role(self._access.caller_of(headers), "runner", "reading metrics")
            async with self._reading:
                await self._read_rollouts()
            body, media_type = self._prometheus.exposition(headers.get(b"accept", b"").decode("latin-1"))
            status = 200
        except AgentLightningError as error:
            body, media_type, status = f"{error}\n".encode(), "text/plain; charset=utf-8", error.status
        await _send(send, status, body, {"content-type": media_type})

    async def _read_rollouts(self) -> None:
        while True:
            batch = await self._store.read_finished_rollouts(cursor=self._cursor, limit=_PAGE)
            for rollout in batch.items:
                labels = {"status": rollout.status, "mode": rollout.mode or "none"}
                await self._backend.inc_counter("agl.rollouts.total", 1.0, labels)
                if rollout.end_time is not None:
                    duration = rollout.end_time - rollout.start_time
                    await self._backend.observe_histogram("agl.rollouts.duration", duration, labels)
            self._cursor = batch.cursor
            if len(batch.items) < _PAGE:
                return


def prometheus_in(backend: MetricsBackend) -> PrometheusMetricsBackend | None:
    """Return the backend that Prometheus reads, if there is one."""
    if isinstance(backend, PrometheusMetricsBackend):
        return backend
    inner = backend.backends if isinstance(backend, MultiMetricsBackend) else ()
    return next((found for each in inner if (found := prometheus_in(each)) is not None), None)


async def _send(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
