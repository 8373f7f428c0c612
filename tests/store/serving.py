"""A store's server on the loop of a test."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from starlette.types import ASGIApp

from agentlightning.serving import EmbeddedServer
from agentlightning.store import LightningStore
from agentlightning.store.routes import StoreApp

OpenStore: TypeAlias = Callable[[], LightningStore]


@asynccontextmanager
async def served(store: LightningStore) -> AsyncIterator[str]:
    """Serve a store; yields the address."""
    async with serving(StoreApp(store)) as server:
        yield server.url


@asynccontextmanager
async def serving(app: ASGIApp, port: int = 0) -> AsyncIterator[EmbeddedServer]:
    """Serve an application."""
    server = EmbeddedServer(app, port=port, drain_seconds=1)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
