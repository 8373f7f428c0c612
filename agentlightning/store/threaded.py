"""A wrapper around a store; v0.3 had it for use from several threads."""

from __future__ import annotations

import copy
from typing import Any

from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.store.forwarding import ForwardingStore
from agentlightning.store.operations import Operation


class LightningStoreThreaded(ForwardingStore):
    """Hands every operation to a store. The stores of this package are safe to share between threads without it.

    A subclass that overrides `call` sees every operation, and the store behind it still remembers the keys of requests.

    Args:
        store: The store.
    """

    def __init__(self, store: LightningStore) -> None:
        self.store = store

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """The inner store's, which is as safe as the inner store makes it."""
        return self.store.capabilities

    def otlp_traces_endpoint(self) -> str:
        """See `LightningStore.otlp_traces_endpoint`."""
        return self.store.otlp_traces_endpoint()

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Call the inner store."""
        return await getattr(self.store, operation.name)(**arguments)

    def keyed(self, key: str, fingerprint: bytes) -> LightningStore:
        """See `LightningStore.keyed`."""
        view = copy.copy(self)
        view.store = self.store.keyed(key, fingerprint)
        return view

    async def withdraw(self, key: str) -> None:
        """See `LightningStore.withdraw`."""
        await self.store.withdraw(key)

    async def close(self) -> None:
        """Close the inner store."""
        await self.store.close()
