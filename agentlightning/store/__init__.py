"""The store: where tasks, attempts, spans, resources and workers live."""

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
from agentlightning.store.sqlite import InMemoryLightningStore, SqliteLightningStore

__all__ = [
    "UNSET",
    "InMemoryLightningStore",
    "LightningStore",
    "LightningStoreCapabilities",
    "LightningStoreStatistics",
    "SqliteLightningStore",
    "Unset",
    "is_finished",
    "is_queuing",
    "is_running",
]
