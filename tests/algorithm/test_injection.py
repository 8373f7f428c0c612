from __future__ import annotations

from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm.injection import with_llm_proxy, with_store


class Careful(agl.Algorithm):
    @with_store
    async def count(self, store: agl.LightningStore, more: int) -> int:
        return len(await store.query_rollouts()) + more

    @with_llm_proxy()
    async def look(self, proxy: agl.LLMProxy | None) -> bool | None:
        return proxy and proxy.is_running()

    @with_llm_proxy(required=True, auto_start=False)
    async def need(self, proxy: agl.LLMProxy | None) -> bool | None:
        return proxy and proxy.is_running()

    @with_llm_proxy()
    async def fail(self, proxy: agl.LLMProxy | None) -> None:
        raise RuntimeError("on purpose")


async def test_a_method_gets_the_store_before_its_arguments() -> None:
    algorithm, store = Careful(), agl.InMemoryLightningStore()
    with pytest.raises(ValueError, match="store"):
        await algorithm.count(1)
    algorithm.set_store(store)
    await store.enqueue_rollout("task")
    assert await algorithm.count(2) == 3
    await store.close()


async def test_a_gateway_runs_for_the_time_of_the_call() -> None:
    algorithm, store = Careful(), agl.InMemoryLightningStore()
    assert await algorithm.look() is None
    with pytest.raises(ValueError, match="needs a gateway"):
        await algorithm.need()
    models: Any = [{"model_name": "m", "litellm_params": {"model": "openai/m", "api_base": "http://127.0.0.1:9/v1"}}]
    proxy = agl.LLMProxy(model_list=models, store=store)
    algorithm.set_llm_proxy(proxy)
    assert await algorithm.look() is True
    with pytest.raises(RuntimeError, match="on purpose"):
        await algorithm.fail()
    assert not proxy.is_running()
    assert await algorithm.need() is False
    await proxy.start()
    assert await algorithm.look() is True
    assert proxy.is_running()
    await proxy.stop()
    await store.close()
