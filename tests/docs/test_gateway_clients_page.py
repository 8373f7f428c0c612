"""The tools on the page on clients reach a model through the gateway, and their calls are recorded."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import shutil
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.llm_proxy import LLMProxy
from tests.llm_proxy.scripted_backend import ScriptedBackend

PAGE = (Path(__file__).parents[2] / "docs" / "gateway_clients.md").read_text("utf-8")
DEADLINE = 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


NAMESPACE: dict[str, Any] = {"__name__": "docs"}
for block in blocks("python"):
    exec(block, NAMESPACE)
TOOLS = {
    "with_openai": "openai",
    "with_anthropic": "anthropic",
    "with_langchain": "langchain_openai",
    "with_agents_sdk": "agents",
    "with_litellm": "litellm",
    "with_llama_index": "llama_index",
}


@pytest.fixture
async def store() -> AsyncIterator[agl.InMemoryLightningStore]:
    store = agl.InMemoryLightningStore()
    yield store
    await store.close()


@pytest.fixture
async def proxy(store: agl.InMemoryLightningStore) -> AsyncIterator[LLMProxy]:
    backend = ScriptedBackend()
    await backend.server.start()
    proxy = LLMProxy(model_list=[backend.model_config], store=store)
    await proxy.start()
    yield proxy
    await proxy.stop()
    await backend.server.stop()


async def attempt(store: agl.InMemoryLightningStore, proxy: LLMProxy) -> agl.LLM:
    gateway = proxy.as_resource().endpoint.removesuffix("/v1")
    return await NAMESPACE["take_attempt"](store, gateway, "policy")


async def recorded(store: agl.InMemoryLightningStore, proxy: LLMProxy) -> list[object]:
    await proxy.stop()  # which ships
    (rollout,) = await store.query_rollouts()
    return [span.attributes["gen_ai.response.id"] for span in await store.query_spans(rollout.rollout_id)]


def test_every_python_tool_on_the_page_is_run() -> None:
    assert sorted(name for name in NAMESPACE if name.startswith("with_")) == sorted(TOOLS)


@pytest.mark.parametrize("name", [name for name, package in TOOLS.items() if find_spec(package)])
async def test_a_tools_call_is_answered_and_recorded(
    store: agl.InMemoryLightningStore, proxy: LLMProxy, name: str
) -> None:
    tool, llm = NAMESPACE[name], await attempt(store, proxy)
    async with asyncio.timeout(DEADLINE):
        said = await (tool(llm) if inspect.iscoroutinefunction(tool) else asyncio.to_thread(tool, llm))
    assert said == "answer 1.0"
    assert await recorded(store, proxy) == ["chatcmpl-1"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curls_call_is_answered_and_recorded(store: agl.InMemoryLightningStore, proxy: LLMProxy) -> None:
    (command,) = [block for block in blocks("bash") if block.startswith("curl")]
    endpoint = (await attempt(store, proxy)).endpoint
    environment = os.environ | {"OPENAI_BASE_URL": endpoint, "OPENAI_API_KEY": "unused", "no_proxy": "127.0.0.1"}
    process = await asyncio.create_subprocess_shell(command, env=environment, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(DEADLINE):
        answer, _ = await process.communicate()
    assert process.returncode == 0
    assert b"answer 1.0" in answer
    assert await recorded(store, proxy) == ["chatcmpl-1"]
