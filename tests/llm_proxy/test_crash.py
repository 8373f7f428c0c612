"""A call whose reply the agent has seen survives the death of the gateway."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from scripted_backend import ScriptedBackend
from streams import DONE, Stream, event

from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import SqliteLightningStore

CHILD = Path(__file__).with_name("gateway_process.py")
CALLS = 20

Json = dict[str, Any]


HI: Json = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "request_body", "last"),
    [
        pytest.param("/chat/completions", HI, None, id="whole"),
        pytest.param("/chat/completions", HI | {"stream": True}, DONE, id="streamed"),
        pytest.param("/messages", HI | {"stream": True}, b'"message_stop"}\n\n', id="messages"),
        pytest.param("/responses", {"model": "policy", "input": "hi", "stream": True}, b".completed\n", id="responses"),
    ],
)
@pytest.mark.parametrize("kind", ["ships", "never_ships"])
async def test_calls_answered_before_a_kill_are_in_the_store_once(
    tmp_path: Path, backend: ScriptedBackend, kind: str, path: str, request_body: Json, last: bytes | None
) -> None:
    if last:
        backend.script = lambda _: Stream([numbered(len(backend.requests)), DONE]).response()
    store_path, journal = str(tmp_path / "store.db"), str(tmp_path / "journal")
    base = f"{backend.server.url}/v1"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CHILD), store_path, journal, base, kind),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert child.stdout
    async with asyncio.timeout(20):
        endpoint = (await child.stdout.readline()).decode().strip()
        async with aiohttp.ClientSession() as session:
            for _ in range(CALLS):
                async with session.post(f"{endpoint}{path}", json=request_body) as reply:
                    assert reply.status == 200
                    await (reply.content.readuntil(last) if last else reply.read())
        child.kill()
        await child.wait()
    rollout_id = endpoint.split("/rollout/")[1].split("/")[0]
    assert await replayed_response_ids(store_path, journal, rollout_id) == [f"chatcmpl-{n + 1}" for n in range(CALLS)]


def numbered(number: int) -> bytes:
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}
    return event({"id": f"chatcmpl-{number}", "choices": [choice]})


async def replayed_response_ids(store_path: str, journal: str, rollout_id: str) -> list[object]:
    store = SqliteLightningStore(store_path)
    proxy = LLMProxy(store=store, journal_dir=journal)
    await proxy.start()
    await proxy.stop()
    spans = await store.query_spans(rollout_id)
    await store.close()
    return [span.attributes["gen_ai.response.id"] for span in spans]
