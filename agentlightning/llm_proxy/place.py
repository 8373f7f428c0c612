"""Where a gateway stands: beside its store, as far as others can reach that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from agentlightning.serving import is_loopback, url_of
from agentlightning.store import LightningStore, LightningStoreServer, LightningStoreThreaded

_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Place:
    """An address, and who may call.

    Attributes:
        host: What is bound.
        token: What callers must present; None where anybody may call who reaches it.
        name: Under which name others reach it; None for the address that is bound.
    """

    host: str
    token: str | None
    name: str | None = None

    def url(self, bound: str) -> str:
        """Return where others reach what is served at the URL `bound`."""
        return bound if self.name is None else url_of(self.name, urlsplit(bound).port or 0)


def place_of(host: str | None, token: str | None, store: LightningStore) -> Place:
    """Return where a gateway stands.

    Args:
        host: The address that was chosen; None lets it follow the server of its store.
        token: The token that was chosen.
        store: Its store.
    """
    server = _server_of(store)
    if host is not None or server is None or is_loopback(server.host):
        return Place(host or _LOOPBACK, token)
    return Place(server.host, token or server.token, urlsplit(server.endpoint).hostname)


def _server_of(store: LightningStore) -> LightningStoreServer | None:
    """Return the server of a store, which may lie behind wrappers."""
    while isinstance(store, LightningStoreThreaded):
        store = store.store
    return store if isinstance(store, LightningStoreServer) else None
