"""Replicas behind one name: rollouts stick to theirs, the loss of one is not noticed, lists change under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from scripted_backend import ScriptedBackend, answer
from starlette.responses import JSONResponse, Response

from agentlightning.errors import ConfigurationError
from agentlightning.llm_proxy import LLMProxy
from agentlightning.llm_proxy.routing import RoutingTable
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout
from agentlightning.types.llm_call_span import BACKEND, RETRIES

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def replicas() -> AsyncIterator[list[ScriptedBackend]]:
    replicas = [ScriptedBackend() for _ in range(3)]
    for replica in replicas:
        await replica.server.start()
    yield replicas
    for replica in replicas:
        replica.gate.set()
        await replica.server.stop()


@pytest.fixture
async def proxy(store: InMemoryLightningStore, replicas: list[ScriptedBackend]) -> AsyncIterator[LLMProxy]:
    proxy = LLMProxy(model_list=[replica.model_config for replica in replicas], store=store)
    await proxy.start()
    yield proxy
    await proxy.stop()


@asynccontextmanager
async def agent(
    proxy: LLMProxy, attempted: AttemptedRollout | None = None
) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Yield what makes a call, as an agent of the attempt or of none, that gives up at the first error."""
    resource = proxy.as_resource()
    if attempted is not None:
        resource = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id)
    async with openai.AsyncOpenAI(base_url=resource.endpoint, api_key="k", max_retries=0) as client:
        yield lambda: client.chat.completions.create(model="policy", messages=MESSAGES)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)


async def test_all_calls_of_a_rollout_go_to_one_replica_and_rollouts_to_several(
    proxy: LLMProxy, store: InMemoryLightningStore, replicas: list[ScriptedBackend]
) -> None:
    for _ in range(12):
        async with agent(proxy, await store.start_rollout(input={})) as call:
            before = [len(replica.requests) for replica in replicas]
            for _ in range(3):
                await call()
            after = [len(replica.requests) for replica in replicas]
            assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, 0, 3]
    assert sum(bool(replica.requests) for replica in replicas) > 1


async def test_calls_of_no_rollout_take_turns(proxy: LLMProxy, replicas: list[ScriptedBackend]) -> None:
    async with agent(proxy) as call:
        for _ in range(9):
            await call()
    assert [len(replica.requests) for replica in replicas] == [3, 3, 3]


async def test_no_agent_notices_that_one_of_three_replicas_dies(
    proxy: LLMProxy, store: InMemoryLightningStore, replicas: list[ScriptedBackend]
) -> None:
    rollouts = [await store.start_rollout(input={}) for _ in range(16)]
    async with AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(agent(proxy, attempted)) for attempted in rollouts]
        await asyncio.gather(*(call() for call in calls))
        died = next(replica for replica in replicas if replica.requests)
        its_url = died.model_config["litellm_params"]["api_base"]
        await died.server.stop()
        for _ in range(4):
            await asyncio.gather(*(call() for call in calls))
        await proxy.stop()
    backends: Counter[object] = Counter()
    retried = 0
    for attempted in rollouts:
        spans = await store.query_spans(attempted.rollout_id)
        assert [span.status.status_code for span in spans] == ["OK"] * 5
        backends.update(span.attributes[BACKEND] for span in spans)
        retried += sum(bool(span.attributes.get(RETRIES)) for span in spans)
    assert backends[its_url] == len(died.requests)
    assert 0 < retried <= backends.total() - backends[its_url]


async def test_a_replica_that_comes_back_gets_its_rollouts_again(
    proxy: LLMProxy, store: InMemoryLightningStore, replicas: list[ScriptedBackend]
) -> None:
    async with agent(proxy, await store.start_rollout(input={})) as call:
        await call()
        home = next(replica for replica in replicas if replica.requests)
        home.script = lambda _: JSONResponse({"error": {"message": "out of memory"}}, 500)
        for _ in range(4):
            await call()
        asked = len(home.requests)
        assert asked >= 4
        home.script = None
        await until(lambda: "/v1/models" in home.paths)
        async with asyncio.timeout(60):
            while len(home.requests) == asked:
                await call()
        others = sum(len(replica.requests) for replica in replicas if replica is not home)
        await call()
        assert len(home.requests) == asked + 2
        assert sum(len(replica.requests) for replica in replicas if replica is not home) == others


async def test_a_replica_that_hangs_costs_one_call_its_time_and_no_other(
    store: InMemoryLightningStore, replicas: list[ScriptedBackend]
) -> None:
    proxy = LLMProxy(model_list=[replica.model_config for replica in replicas], store=store, timeout=4.0)
    await proxy.start()
    try:
        async with agent(proxy, await store.start_rollout(input={})) as call:
            await call()
            home = next(replica for replica in replicas if replica.requests)
            home.gate.clear()
            with pytest.raises(openai.InternalServerError) as caught:
                await call()
            assert (caught.value.status_code, caught.value.code) == (504, "backend_timeout")
            await asyncio.wait_for(home.abandoned.wait(), 60)
            await home.server.stop()
            await call()
    finally:
        await proxy.stop()
    assert len(home.requests) == 2


async def test_a_gateway_that_stops_asks_nobody_any_more(proxy: LLMProxy, replicas: list[ScriptedBackend]) -> None:
    for replica in replicas:
        await replica.server.stop()
    async with agent(proxy) as call:
        for _ in range(3):
            with pytest.raises(openai.InternalServerError):
                await call()
    probing = {task for task in asyncio.all_tasks() if task.get_name() == "agl-gateway-probe"}
    assert len(probing) == 3
    await proxy.stop()
    assert all(task.done() for task in probing)


async def test_when_all_replicas_are_gone_the_error_is_one_to_try_again(
    proxy: LLMProxy, replicas: list[ScriptedBackend]
) -> None:
    for replica in replicas:
        await replica.server.stop()
    async with agent(proxy) as call:
        with pytest.raises(openai.InternalServerError) as caught:
            await call()
    assert (caught.value.status_code, caught.value.code) == (502, "backend_unreachable")


@pytest.mark.parametrize("status", [409, 429])
async def test_what_all_replicas_refuse_is_told_as_they_said_it(
    proxy: LLMProxy, replicas: list[ScriptedBackend], status: int
) -> None:
    for replica in replicas:
        replica.script = lambda _: JSONResponse({"error": {"message": "full"}}, status, {"retry-after": "77"})
    async with agent(proxy) as call:
        with pytest.raises(openai.APIStatusError, match="full") as caught:
            await call()
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (status, "77")
    assert [len(replica.requests) for replica in replicas] == [1, 1, 1]


async def test_the_number_of_retries_is_the_configurations(
    store: InMemoryLightningStore, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: JSONResponse({"error": {"message": "no"}}, 503, {"retry-after-ms": "1"})
    proxy = LLMProxy(model_list=[backend.model_config], store=store, num_retries=0)
    await proxy.start()
    try:
        async with agent(proxy) as call:
            with pytest.raises(openai.InternalServerError):
                await call()
    finally:
        await proxy.stop()
    assert len(backend.requests) == 1


async def test_the_list_changes_under_load_and_every_call_is_answered_where_it_began(
    proxy: LLMProxy, store: InMemoryLightningStore, replicas: list[ScriptedBackend]
) -> None:
    old, new = replicas[:2], replicas[2]
    proxy.update_model_list([replica.model_config for replica in old])
    for replica in old:
        replica.gate.clear()
    async with agent(proxy) as call:
        early = [asyncio.ensure_future(call()) for _ in range(20)]
        await until(lambda: sum(len(replica.requests) for replica in old) == 20)
        await asyncio.to_thread(proxy.update_model_list, [new.model_config])
        await asyncio.gather(*(call() for _ in range(20)))
        for replica in old:
            replica.gate.set()
        await asyncio.gather(*early)
    assert [len(replica.requests) for replica in replicas] == [10, 10, 20]


async def test_lists_that_change_all_the_time_lose_no_call(
    proxy: LLMProxy, store: InMemoryLightningStore, replicas: list[ScriptedBackend]
) -> None:
    configs = [replica.model_config for replica in replicas]
    async with agent(proxy, await store.start_rollout(input={})) as call:
        for turn in range(60):
            proxy.update_model_list([configs[turn % 3], configs[(turn + 1) % 3]])
            await call()
    assert sum(len(replica.requests) for replica in replicas) == 60


def entry(base: str, **parameters: str) -> Any:
    return {"model_name": "policy", "litellm_params": {"model": "m", "api_base": base, **parameters}}


def versioned(base: str, version: Any) -> Any:
    return {**entry(base), "model_info": {"weights_version": version}}


def test_a_new_list_keeps_what_is_known_of_backends_that_stay() -> None:
    one = RoutingTable([entry("http://a/v1"), entry("http://b/v1")])
    a, b = one.backends
    b.health.fail(silent=True)
    two = RoutingTable([entry("http://b/v1/"), entry("http://c/v1")], one)
    assert two.backends[0] is b
    assert [backend.health.out for backend in two.backends] == [True, False]
    assert a not in two.backends


def test_new_weights_leave_what_is_known_of_a_backend() -> None:
    one = RoutingTable([versioned("http://a/v1", 1)])
    (a,) = one.backends
    with pytest.raises(ConfigurationError):
        RoutingTable([versioned("http://a/v1", 2), versioned("http://b/v1", "x")], one)
    assert a.weights_version == 1
    two = RoutingTable([versioned("http://a/v1", 2)], one)
    assert (two.backends[0] is a, a.weights_version) == (True, 2)


@pytest.mark.parametrize("version", ["3", True, -1, 1.5])
def test_weights_that_are_no_version_are_refused(version: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'policy': model_info\.weights_version is"):
        RoutingTable([versioned("http://a/v1", version)])


@pytest.mark.parametrize("said", [None, 7])
async def test_the_list_says_which_weights_sampled_where_the_answer_does_not(
    store: InMemoryLightningStore, said: int | None
) -> None:
    def script(payload: dict[str, Any]) -> Response:
        return JSONResponse(answer(payload, len(backend.requests)) | {"weights_version": said})

    backend = ScriptedBackend()
    backend.script = script
    await backend.server.start()
    base = f"{backend.server.url}/v1"
    proxy = LLMProxy(model_list=[versioned(base, 0)], store=store)
    await proxy.start()
    attempted = await store.start_rollout(input={})
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint

    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        async with session.post(f"{endpoint}/chat/completions", json={"model": "policy"}) as reply:
            assert reply.status == 200
        backend.gate.clear()
        backend.asked.clear()
        calling = asyncio.create_task(session.post(f"{endpoint}/chat/completions", json={"model": "policy"}))
        await backend.asked.wait()
        proxy.update_model_list([versioned(base, 1)])
        backend.gate.set()
        async with await calling as reply:  # it was asked of the weights before
            assert reply.status == 200
        async with session.post(f"{endpoint}/chat/completions", json={"model": "policy"}) as reply:
            assert reply.status == 200
    await proxy.stop()
    await backend.server.stop()
    spans = await store.query_spans(attempted.rollout_id)
    versions = [span.attributes["agentlightning.llm_call.weights_version"] for span in spans]
    assert versions == ([0, 0, 1] if said is None else [said] * 3)


def test_a_backend_that_is_asked_otherwise_is_another() -> None:
    one = RoutingTable([entry("http://a/v1")])
    two = RoutingTable([entry("http://a/v1", api_key="new")], one)
    assert [backend.api_key for backend in two.backends] == ["new"]


def test_an_entry_changed_in_place_is_noticed() -> None:
    config = entry("http://a/v1")
    one = RoutingTable([config])
    config["litellm_params"]["api_base"] = "http://b/v1"
    assert RoutingTable([config], one).backends[0].api_base == "http://b/v1"


def test_a_list_with_a_bad_entry_is_refused_by_the_models_name() -> None:
    with pytest.raises(ConfigurationError, match="'policy': litellm_params needs `model`"):
        RoutingTable([{"model_name": "policy", "litellm_params": {"api_base": "http://a/v1"}}])
