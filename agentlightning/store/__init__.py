"""The store: where tasks, attempts, spans, resources and workers live.

What needs a web framework, an HTTP client or a database is imported when it is first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning import _compat
from agentlightning._internal.lazy import names_for_type_checkers
from agentlightning.store.base import (
    UNSET,
    LightningStore,
    LightningStoreCapabilities,
    LightningStoreStatistics,
    Unset,
    is_finished,
    is_queuing,
    is_running,
)

if TYPE_CHECKING:
    from agentlightning.store.client import LightningStoreClient
    from agentlightning.store.postgres import PostgresLightningStore
    from agentlightning.store.server import LightningStoreServer
    from agentlightning.store.sqlite import InMemoryLightningStore, SqliteLightningStore
    from agentlightning.store.threaded import LightningStoreThreaded

__all__ = [
    "UNSET",
    "InMemoryLightningStore",
    "LightningStore",
    "LightningStoreCapabilities",
    "LightningStoreClient",
    "LightningStoreServer",
    "LightningStoreStatistics",
    "LightningStoreThreaded",
    "PostgresLightningStore",
    "SqliteLightningStore",
    "Unset",
    "is_finished",
    "is_queuing",
    "is_running",
]

_HOMES = names_for_type_checkers(Path(__file__))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        _compat.raise_ended(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
