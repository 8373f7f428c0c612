"""Weights change under running agents: calls wait in the gateway, and no agent notices."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from outcomes import Outcome, run_all
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import agentlightning as agl
from agentlightning._internal.threads import run_in_thread
from agentlightning.serving import EmbeddedServer

CHILD = Path(__file__).with_name("hold_process.py")
AGENTS = 32
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


class Backend:
    """Answers with the version of its weights, and says whether it was asked while they changed."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.changing = False
        self.version = 0
        self.server = EmbeddedServer(Starlette(routes=[Route("/v1/chat/completions", self._serve, methods=["POST"])]))

    @property
    def model_list(self) -> list[Any]:
        parameters = {"model": "policy", "api_base": f"{self.server.url}/v1"}
        return [{"model_name": "policy", "litellm_params": parameters}]

    async def _serve(self, request: Request) -> Response:
        payload = json.loads(await request.body())
        self.asked["while changing" if self.changing else f"version {self.version}"] += 1
        await asyncio.sleep(0.02)
        text = f"version {self.version}"
        choice = {"index": 0, "finish_reason": "stop"}
        head = {"id": "c", "model": "policy", "created": 1}
        if not payload.get("stream"):
            message = {"role": "assistant", "content": text}
            return JSONResponse(head | {"object": "chat.completion", "choices": [choice | {"message": message}]})
        chunk = head | {"object": "chat.completion.chunk", "choices": [choice | {"delta": {"content": text}}]}
        return Response(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", media_type="text/event-stream")


@asynccontextmanager
async def gateway(store: agl.LightningStore) -> AsyncIterator[tuple[Backend, agl.LLMProxy]]:
    backend = Backend()
    await backend.server.start()
    proxy = agl.LLMProxy(model_list=backend.model_list, store=store)
    await proxy.start()
    try:
        yield backend, proxy
    finally:
        await proxy.stop()
        await backend.server.stop()


def asks_sync(client: openai.OpenAI) -> str:
    return client.chat.completions.create(model="policy", messages=MESSAGES).choices[0].message.content or ""


def streams_sync(client: anthropic.Anthropic) -> str:
    with client.messages.stream(model="policy", messages=MESSAGES, max_tokens=9) as stream:
        return stream.get_final_text()


async def asks_async(client: openai.AsyncOpenAI) -> str:
    answer = await client.chat.completions.create(model="policy", messages=MESSAGES)
    return answer.choices[0].message.content or ""


async def streams_async(client: openai.AsyncOpenAI) -> str:
    stream = await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
    return "".join([piece.choices[0].delta.content or "" async for piece in stream])


KINDS: Any = (
    (openai.AsyncOpenAI, asks_async),
    (openai.AsyncOpenAI, streams_async),
    (openai.OpenAI, asks_sync),
    (anthropic.Anthropic, streams_sync),
)


@pytest.mark.parametrize("impatience", [2.5, pytest.param(20.0, marks=pytest.mark.soak)])
def test_agents_of_all_kinds_notice_nothing_of_a_hold(impatience: float) -> None:
    """As their SDKs come, with two retries and ten minutes' timeout; one agent's timeout is shorter than the hold."""
    calling = threading.Barrier(AGENTS + 1)
    seen: dict[int, list[str]] = {task: [] for task in range(AGENTS)}
    outcomes: list[Outcome] = []
    backends: list[Backend] = []

    @agl.rollout
    async def agent(task: int, llm: agl.LLM) -> float:
        kind, ask = KINDS[task % len(KINDS)]
        client = kind(base_url=llm.endpoint, api_key="k", **({"timeout": impatience} if task == 0 else {}))

        async def once() -> str:
            if asyncio.iscoroutinefunction(ask):
                return await ask(client)
            return await run_in_thread(lambda: ask(client), "agent")

        seen[task].append(await once())
        await run_in_thread(lambda: calling.wait(60), "barrier")  # all run, and the hold begins
        while "version 1" not in seen[task]:
            seen[task].append(await once())
        seen[task].append(await once())
        if asyncio.iscoroutinefunction(ask):
            await client.close()
        else:
            client.close()
        return 1.0

    @agl.algo
    async def update(store: agl.LightningStore) -> None:
        async with gateway(store) as (backend, proxy):
            backends.append(backend)
            await store.add_resources({"llm": proxy.as_resource()})
            running = asyncio.create_task(
                run_all(store, [agl.EnqueueRolloutRequest(input=task) for task in range(AGENTS)])
            )
            await run_in_thread(lambda: calling.wait(60), "barrier")
            async with proxy.hold(drain=60.0) as drained:
                assert drained
                backend.changing = True
                for all_held in (True, False, True):  # the impatient agent gives up, and comes again
                    await until_held(proxy, all_held)
                backend.changing, backend.version = False, 1
            outcomes.extend(await running)

    runner = agl.LitAgentRunner[Any](agl.OtelTracer(), max_concurrency=4)
    agl.Trainer(algorithm=update, n_runners=AGENTS // 4, runner=runner).fit(agent)
    assert [(outcome.status, outcome.error) for outcome in outcomes] == [("succeeded", {})] * AGENTS
    (backend,) = backends
    assert backend.asked["while changing"] == 0
    answered = [answer for answers in seen.values() for answer in answers]
    assert set(answered) == {"version 0", "version 1"}
    assert sum(backend.asked.values()) == len(answered)
    for task, outcome in enumerate(outcomes):
        good = [call for call in outcome.calls if call.status.status_code == "OK"]
        left = [call for call in outcome.calls if call not in good]
        assert len(good) == len(seen[task])
        assert bool(left) == (task == 0)
        assert all("the client left while its call was held" in (call.status.description or "") for call in left)


async def until_held(proxy: agl.LLMProxy, all_of_them: bool) -> None:
    """Return once all agents' calls are held, or one is not."""
    async with asyncio.timeout(60):
        while ((await proxy.hold_status()).held == AGENTS) != all_of_them:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)


async def test_calls_go_on_when_the_process_that_held_them_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    store = agl.InMemoryLightningStore()
    async with gateway(store) as (backend, proxy):
        endpoint = proxy.as_resource().endpoint
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CHILD), endpoint.removesuffix("/v1"), "3.0"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert child.stdout
            async with asyncio.timeout(60):
                assert await child.stdout.readline() == b"held\n"
                async with openai.AsyncOpenAI(base_url=endpoint, api_key="k") as client:
                    call = client.chat.completions.create(model="policy", messages=MESSAGES)
                    answer = asyncio.create_task(call)
                    await renewed(proxy)
                    assert not answer.done()
                    assert not backend.asked
                    child.kill()
                    assert (await answer).choices[0].message.content == "version 0"
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
    assert "'trainer' held model calls and gave no sign of life for 3 s" in caplog.text
    await store.close()


async def renewed(proxy: agl.LLMProxy) -> None:
    """Return once a call is held and the trainer's lease was seen to begin anew."""
    least = float("inf")
    while True:
        status = await proxy.hold_status()
        left = status.owners["trainer"]
        if status.held and left > least:
            return
        least = min(least, left)
        await asyncio.sleep(0.01)


async def test_a_trainer_elsewhere_holds_drains_and_resumes() -> None:
    store = agl.InMemoryLightningStore()
    async with gateway(store) as (backend, proxy), aiohttp.ClientSession() as http:
        endpoint = proxy.as_resource().endpoint
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CHILD), endpoint.removesuffix("/v1"), "30.0"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert child.stdout
            async with asyncio.timeout(60):
                assert await child.stdout.readline() == b"held\n"
                assert (await proxy.hold_status()).paused
                await child.communicate(b"")  # the end of its input ends its hold
                assert not (await proxy.hold_status()).paused
                request = {"model": "policy", "messages": MESSAGES}
                async with http.post(f"{endpoint}/chat/completions", json=request) as reply:
                    assert reply.status == 200
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
        assert sum(backend.asked.values()) == 1
    await store.close()
