"""A store served over HTTP."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, Literal

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from agentlightning._internal.defaults import PORT
from agentlightning.errors import ConfigurationError
from agentlightning.metrics import MetricsBackend
from agentlightning.serving import EmbeddedServer, ServerThread, url_of
from agentlightning.store.access import Access
from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.forwarding import ForwardingStore
from agentlightning.store.limits import Limits
from agentlightning.store.operations import Operation
from agentlightning.store.otlp.paths import TRACES_PATH
from agentlightning.store.routes import StoreApp
from agentlightning.store.tokens import required_token
from agentlightning.store.tracking import Tracking

ONE_PROCESS: Final = (
    "One server is one process here: for several, keep the store in PostgreSQL and start "
    "`agl store --backend postgres` several times"
)

LaunchMode = Literal["thread", "asyncio", "mp"]


class LightningStoreServer(ForwardingStore):
    """Serves a store; used as a store itself, it calls that store directly.

    Pickled, it becomes a client of its address: one process has the store, all others talk to it.

    Args:
        store: The store; it stays the caller's, and open when the server stops.
        host: Address to bind; this machine alone can reach the default, any other needs a token.
        port: Port to bind, 4747 by default; 0 picks a free one.
        cors_allow_origins: The web pages that may call the store and read its answers, such as `https://example.org`;
            "*" for all.
        launch_mode: "thread" serves from a thread, whatever the program's event loop does; "asyncio" from the event
            loop that starts it. v0.3's "mp" is refused: several processes serve one PostgreSQL store instead.
        launcher_args: v0.3's, refused; the other arguments say it all.
        n_workers: 1; v0.3's several workers are refused as "mp" is.
        tracker: Counts the requests; with a `PrometheusMetricsBackend` the server answers `/v1/prometheus`.
        token: What clients must present as `Authorization: Bearer`; `AGL_TOKEN` by default. See
            `agentlightning.store.tokens` for those of runners and agents.
        limits: How much one request may hold, and how many may be worked on at once.

    Raises:
        ConfigurationError: What was asked for cannot work.
    """

    def __init__(
        self,
        store: LightningStore,
        host: str | None = None,
        port: int | None = None,
        cors_allow_origins: str | Sequence[str] | None = None,
        launch_mode: LaunchMode = "thread",
        launcher_args: None = None,
        n_workers: int = 1,
        tracker: MetricsBackend | None = None,
        *,
        token: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        _check_launch(store, launch_mode, launcher_args, n_workers)
        self.store: Final = store
        self._host = host or "127.0.0.1"
        self._token = required_token(self._host, token)
        self._port = PORT if port is None else port
        origins = _origins_in(cors_allow_origins)
        access = Access(self._token, origins)
        app = StoreApp(store, access, limits)
        tracked = app if tracker is None else Tracking(app, store, access, tracker)
        server = EmbeddedServer(_with_cors(tracked, origins), self._host, self._port, on_stop=app.prepare_stop)
        self._server = ServerThread(server, "agl-store-server") if launch_mode == "thread" else server
        self._process = os.getpid()

    @property
    def endpoint(self) -> str:
        """Where clients find the store; known before the start unless the port is to be picked."""
        return self._server.url if self._server.running or self._port == 0 else url_of(self._host, self._port)

    @property
    def host(self) -> str:
        """The address that it binds."""
        return self._host

    @property
    def token(self) -> str | None:
        """What clients must present; None where anybody may call who reaches it."""
        return self._token

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """A server is shared by threads, loops and processes, and takes OpenTelemetry spans."""
        return {"thread_safe": True, "async_safe": True, "zero_copy": True, "otlp_traces": True}

    def otlp_traces_endpoint(self) -> str:
        """Return the URL that takes OTLP spans."""
        return self.endpoint + TRACES_PATH

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Call the store."""
        if os.getpid() != self._process:  # forked: the store and its threads stayed behind
            return await self._remote.call(operation, arguments)
        return await getattr(self.store, operation.name)(**arguments)

    async def start(self) -> None:
        """Serve; returns when connections are accepted.

        Raises:
            AddressTaken: The address cannot be bound.
        """
        await self._server.start()

    async def stop(self) -> None:
        """Answer those who wait for something to happen, let other requests end within seconds, and stop serving."""
        await self._server.stop()

    async def run_forever(self) -> None:
        """Serve until this is cancelled, as Ctrl+C does under `asyncio.run`."""
        await self.start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self.stop()

    @cached_property
    def _remote(self) -> LightningStoreClient:
        return _client_of(self.endpoint, self._token)

    def __reduce__(self) -> tuple[Any, ...]:
        return _client_of, (self.endpoint, self._token)


def _client_of(endpoint: str, token: str | None) -> LightningStoreClient:
    return LightningStoreClient(endpoint, token=token)


def _check_launch(store: LightningStore, launch_mode: str, launcher_args: object, n_workers: int) -> None:
    able = store.capabilities
    if launcher_args is not None:
        raise ConfigurationError("launcher_args of v0.3 do not exist here; pass host, port and launch_mode")
    if launch_mode not in ("thread", "asyncio", "mp"):
        raise ConfigurationError(f"launch_mode is {launch_mode!r}: use 'thread' or 'asyncio'")
    if launch_mode == "mp" or n_workers > 1:
        cannot = "" if able.get("zero_copy") else "The store does not support zero-copy. "
        raise ConfigurationError(cannot + ONE_PROCESS)
    if not able.get("async_safe"):
        raise ConfigurationError(f"{type(store).__name__} does not say that several coroutines may call it")
    if launch_mode == "thread" and not able.get("thread_safe"):
        warnings.warn(
            f"{type(store).__name__} does not say that several threads may call it: serve it with "
            "launch_mode='asyncio', or call it through the server only",
            stacklevel=3,
        )


def _origins_in(given: str | Sequence[str] | None) -> list[str]:
    return [origin.strip() for origin in ([given] if isinstance(given, str) else given or ()) if origin.strip()]


def _with_cors(app: ASGIApp, origins: list[str]) -> ASGIApp:
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=["*"] if "*" in origins else origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "idempotency-key", "x-api-key"],
        expose_headers=["retry-after"],
    )
