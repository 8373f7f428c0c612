"""A store with one running attempt, a scripted OpenAI-shaped backend, and the gateway between them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from scripted_backend import ScriptedBackend

from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


@pytest.fixture
async def attempted(store: InMemoryLightningStore) -> AttemptedRollout:
    return await store.start_rollout(input={})


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    backend = ScriptedBackend()
    await backend.server.start()
    yield backend
    backend.gate.set()
    await backend.server.stop()


@pytest.fixture
async def proxy(store: InMemoryLightningStore, backend: ScriptedBackend) -> AsyncIterator[LLMProxy]:
    proxy = LLMProxy(model_list=[backend.model_config], store=store)
    await proxy.start()
    yield proxy
    await proxy.stop()
