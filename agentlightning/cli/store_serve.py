"""`agl store`: the store, served over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agentlightning._internal.defaults import NAMESPACE, PORT
from agentlightning.cli.interrupt import interrupt_exits_at_once
from agentlightning.cli.serving import checked_level, run_server, secret_for, termination
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.metrics import MetricsBackend
    from agentlightning.store import LightningStore, LightningStoreServer

DEFAULT_FILE: Final = Path("agl-store.db")


class Backend(StrEnum):
    """Where a served store keeps its data."""

    sqlite = "sqlite"
    postgres = "postgres"
    memory = "memory"
    mongo = "mongo"


class Tracker(StrEnum):
    """Who counts the requests."""

    prometheus = "prometheus"
    console = "console"


class Synchronous(StrEnum):
    """What a commit to a SQLite file survives."""

    full = "FULL"
    normal = "NORMAL"
    off = "OFF"


def serve(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to bind; 0.0.0.0 lets other machines in, with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to bind; 0 picks a free one.")] = PORT,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may call the store; repeat for several.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    tracker: Annotated[
        list[Tracker] | None,
        typer.Option(help="Count requests: prometheus answers /v1/prometheus, console writes to the log. Repeatable."),
    ] = None,
    n_workers: Annotated[int, typer.Option(min=1, help="1; for more, start several servers on one PostgreSQL.")] = 1,
    backend: Annotated[Backend, typer.Option(help="Where the data is kept.", show_choices=True)] = Backend.sqlite,
    file: Annotated[Path, typer.Option(help="sqlite: the file, created if missing.")] = DEFAULT_FILE,
    synchronous: Annotated[
        Synchronous,
        typer.Option(help="sqlite: FULL survives a power cut, NORMAL the end of the process.", case_sensitive=False),
    ] = Synchronous.full,
    dsn: Annotated[
        str | None, typer.Option(help="postgres: the database, such as postgresql://user@host/name.", envvar="AGL_DSN")
    ] = None,
    namespace: Annotated[str, typer.Option(help="postgres: keeps the stores of one database apart.")] = NAMESPACE,
    token: Annotated[
        str | None,
        typer.Option(
            help="What clients must present; AGL_TOKEN keeps it out of sight. Made and printed if other machines can "
            "reach --host and there is none."
        ),
    ] = None,
    mongo_uri: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve a store over HTTP until Ctrl+C; runners and algorithms anywhere share it.

    The data is kept in a file by default, and what was acknowledged is still there after a crash.
    """
    if context.invoked_subcommand is not None:
        return
    with interrupt_exits_at_once():  # for imports, which take a while
        from agentlightning.logging import setup_logging
        from agentlightning.serving import check_address
        from agentlightning.store import LightningStoreServer
        from agentlightning.store.server import ONE_PROCESS

        setup_logging(checked_level(log_level))
        # All that can be wrong is looked at before a file is made.
        secret, new_token = secret_for(host, token)
        if n_workers > 1:
            raise ConfigurationError(ONE_PROCESS)
        if mongo_uri is not None:
            backend = Backend.mongo
        check_address(host, port)
    opened = partial(_open, backend, file, synchronous, dsn, namespace)
    server_of = partial(
        LightningStoreServer,
        host=host,
        port=port,
        cors_allow_origins=cors_origin,
        launch_mode="asyncio",
        tracker=_backend_of(tracker or []),
        token=secret,
    )
    run_server(_serve(opened, server_of, new_token))


async def _serve(
    opened: Callable[[], tuple[LightningStore, str]],
    server_of: Callable[[LightningStore], LightningStoreServer],
    new_token: str | None,
) -> None:
    asked_to_stop = termination()
    store, place = opened()
    try:
        server = server_of(store)
        try:
            await server.start()
            typer.echo(_greeting(server.endpoint, place, new_token))
            await asked_to_stop.wait()
        finally:
            await server.stop()
    finally:
        await store.close()


def _backend_of(trackers: list[Tracker]) -> MetricsBackend | None:
    from agentlightning.metrics import ConsoleMetricsBackend, MultiMetricsBackend, PrometheusMetricsBackend

    kinds = {Tracker.prometheus: PrometheusMetricsBackend, Tracker.console: ConsoleMetricsBackend}
    return MultiMetricsBackend([kinds[tracker]() for tracker in trackers]) if trackers else None


def _open(
    backend: Backend, file: Path, synchronous: Synchronous, dsn: str | None, namespace: str
) -> tuple[LightningStore, str]:
    """Open the store, and say where it is."""
    from agentlightning.store import InMemoryLightningStore, SqliteLightningStore

    if backend is Backend.memory:
        return InMemoryLightningStore(), "memory, gone when this command ends"
    if backend is Backend.sqlite:
        return SqliteLightningStore(file, synchronous=synchronous.value), f"{file.resolve()} ({synchronous.value})"
    if backend is Backend.mongo:
        raise ConfigurationError("--backend mongo of v0.3 does not exist here: use --backend postgres --dsn ...")
    if dsn is None:
        raise ConfigurationError("--backend postgres needs --dsn, such as postgresql://user@host/name")
    from agentlightning.store import PostgresLightningStore

    return PostgresLightningStore(dsn, namespace=namespace), f"PostgreSQL, namespace {namespace}"


def _greeting(endpoint: str, place: str, new_token: str | None) -> str:
    lines = [
        f"Store at {endpoint}, kept in {place}.",
        f'Clients: agl.LightningStoreClient("{endpoint}")',
    ]
    if new_token is not None:
        lines.append(f"Their token, made for this run: AGL_TOKEN={new_token}")
    return "\n".join([*lines, "Ctrl+C stops it."])
