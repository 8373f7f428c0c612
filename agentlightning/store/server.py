"""A store served over HTTP."""

from __future__ import annotations

from typing import Any

from agentlightning.serving import EmbeddedServer
from agentlightning.store.base import LightningStore
from agentlightning.store.forwarding import ForwardingStore
from agentlightning.store.operations import Operation
from agentlightning.store.routes import StoreApp


class LightningStoreServer(ForwardingStore):
    """Serves a store; used as a store itself, it calls that store directly.

    Args:
        store: The store.
        host: Address to bind; loopback by default.
        port: Port to bind; 0 picks a free one.
    """

    def __init__(self, store: LightningStore, host: str | None = None, port: int | None = None) -> None:
        self.store = store
        self._server = EmbeddedServer(StoreApp(store), host or "127.0.0.1", port or 0)

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return self._server.url

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Call the store."""
        return await getattr(self.store, operation.name)(**arguments)

    async def start(self) -> None:
        """Start serving."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop serving."""
        await self._server.stop()
