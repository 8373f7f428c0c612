"""Where a gateway runs: on the loop that starts it, or on one of its own."""

from __future__ import annotations

import threading
import urllib.request
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import pytest
from scripted_backend import ScriptedBackend

from agentlightning.errors import AddressTaken, ConfigurationError
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.store import InMemoryLightningStore, LightningStoreCapabilities
from agentlightning.types import AttemptedRollout

THREAD = "agl-gateway"


class OneThreadOnly(InMemoryLightningStore):
    """A store that other threads may not use."""

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return {**super().capabilities, "thread_safe": False}


def gateway_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD]


@pytest.mark.parametrize("mode", ["thread", "mp"])
async def test_a_gateway_with_its_own_loop_answers_while_the_programs_is_busy(
    mode: Literal["thread", "mp"], store: InMemoryLightningStore, backend: ScriptedBackend
) -> None:
    proxy = LLMProxy(model_list=[backend.model_config], store=store, launch_mode=mode)
    for _ in range(2):
        await proxy.start()
        assert gateway_threads() == [THREAD]
        url = proxy.as_resource().endpoint.removesuffix("/v1") + "/health"
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: ASYNC210  # this is the point
            assert answer.status == 200
        await proxy.stop()
        assert not proxy.is_running()
        assert gateway_threads() == []


async def test_its_calls_are_recorded(
    store: InMemoryLightningStore, backend: ScriptedBackend, attempted: AttemptedRollout
) -> None:
    proxy = LLMProxy(model_list=[backend.model_config], store=store, launch_mode="thread")
    await proxy.start()
    rollout_id, attempt_id = attempted.rollout_id, attempted.attempt.attempt_id
    llm = proxy.as_resource(rollout_id, attempt_id)
    payload: dict[str, Any] = {"model": llm.model, "messages": [{"role": "user", "content": "hi"}]}
    url = f"{llm.endpoint}/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=payload) as reply:
        assert reply.status == 200
    await flush_captures({"llm": proxy.as_resource()}, rollout_id, attempt_id)
    assert len(await store.query_spans(rollout_id)) == 1
    async with proxy.hold():
        assert (await proxy.hold_status()).paused
    await proxy.stop()


async def test_no_thread_is_left_where_it_cannot_start(store: InMemoryLightningStore, backend: ScriptedBackend) -> None:
    proxy = LLMProxy(port=urlsplit(backend.server.url).port, store=store, launch_mode="thread")
    with pytest.raises(AddressTaken):
        await proxy.start()
    assert gateway_threads() == []


async def test_a_store_of_one_thread_is_used_from_no_other() -> None:
    store = OneThreadOnly()
    with pytest.raises(ConfigurationError, match="asyncio"):
        await LLMProxy(store=store, launch_mode="thread").start()
    await store.close()


def test_other_ways_to_run_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="launch_mode"):
        LLMProxy(launch_mode="fork")  # pyright: ignore[reportArgumentType]
