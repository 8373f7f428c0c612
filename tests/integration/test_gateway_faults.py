"""What agents see, and what is recorded, when a backend, the store or the gateway itself fails."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import openai
import pytest

from agentlightning.store import LightningStoreClient, SqliteLightningStore
from tests.integration.faulty_backend import FaultyBackend
from tests.integration.gateway_load import Agents, GatewayProcess, ask, check, is_retryable, recorded
from tests.store.server_process import ServerProcess, free_port

AGENTS = 8
pytestmark = pytest.mark.timeout(300)  # each starts several processes
SOAK = [pytest.mark.soak, pytest.mark.timeout(3000)]
Show = Callable[[str], None]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteLightningStore]:
    store = SqliteLightningStore(tmp_path / "store.db")
    yield store
    await store.close()


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]) -> Show:
    def show(line: str) -> None:
        record_property("faults", line)
        with capsys.disabled():
            print(f"\n{line}")  # noqa: T201

    return show


def gateway_before(*backends: FaultyBackend, folder: Path, store: str | None = None) -> GatewayProcess:
    """A gateway before backends, with a file as its store unless another is named."""
    options = ["--model", "policy", "--journal", str(folder / "journal"), "--store", store or str(folder / "store.db")]
    for backend in backends:
        options += ["--backend", backend.url]
    return GatewayProcess([*options, "--timeout", "5"], folder / "gateway.log")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_backend_that_fails_is_a_retryable_error_and_the_next_call_works(
    tmp_path: Path, store: SqliteLightningStore, stream: bool
) -> None:
    attempted = await store.start_rollout(input={})
    answered: list[str] = []
    async with FaultyBackend(free_port()) as backend, gateway_before(backend, folder=tmp_path) as gateway:
        await gateway.start()
        async with openai.AsyncOpenAI(base_url=gateway.endpoint(attempted), api_key="unused", max_retries=0) as client:
            for how in ("dies", "hangs", "closes", "garbage", "fails", "busy"):
                with pytest.raises((openai.APIError, httpx.TransportError)) as caught:
                    await ask(client, how, stream=stream)
                assert is_retryable(caught.value), (how, caught.value)
                if how == "dies":
                    await backend.kill()
                    await backend.start()
                answered.append(await ask(client.with_options(max_retries=5), f"ok after it {how}", stream=stream))
        assert set(answered) <= set(await recorded(store, gateway, attempted))


async def test_a_backend_that_is_busy_for_a_moment_is_noticed_by_nobody(
    tmp_path: Path, store: SqliteLightningStore
) -> None:
    attempted = await store.start_rollout(input={})
    async with FaultyBackend(free_port()) as backend, gateway_before(backend, folder=tmp_path) as gateway:
        await gateway.start()
        async with openai.AsyncOpenAI(base_url=gateway.endpoint(attempted), api_key="unused", max_retries=0) as client:
            answered = [await ask(client, f"recovers {stream}", stream=stream) for stream in (False, True)]
        assert await recorded(store, gateway, attempted) == answered


async def test_of_three_replicas_one_dies_and_no_whole_answer_is_lost(
    tmp_path: Path, store: SqliteLightningStore, show: Show
) -> None:
    attempts = [await store.start_rollout(input={}) for _ in range(AGENTS)]
    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(FaultyBackend(free_port())) for _ in range(3)]
        gateway = await stack.enter_async_context(gateway_before(*backends, folder=tmp_path))
        await gateway.start()
        agents = Agents(gateway, attempts)
        async with agents.working():
            for backend in backends:
                before = agents.told.count
                await agents.until(lambda told, before=before: told.count > before + 5 * AGENTS)
                await backend.kill()
                during = agents.told.count
                await agents.until(lambda told, during=during: told.count > during + 5 * AGENTS)
                await backend.start()
        records = await check(store, gateway, attempts, agents.told)
    # A stream that has begun cannot begin again elsewhere; what has not is asked again.
    assert agents.told.errors.keys() <= {"APIError"}
    assert agents.told.errors.total() <= 3 * AGENTS // 2
    show(f"3 deaths of replicas: {agents.told.count} replies, {records} records, {dict(agents.told.errors)}")


@pytest.mark.parametrize("seconds", [1.0, pytest.param(30.0, marks=SOAK)])
async def test_while_the_store_is_down_agents_notice_nothing(tmp_path: Path, show: Show, seconds: float) -> None:
    arguments = ["--file", str(tmp_path / "store.db"), "--synchronous", "NORMAL"]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ServerProcess(arguments, tmp_path / "store.log"))
        await server.start()
        client = await stack.enter_async_context(LightningStoreClient(server.url))
        attempts = [await client.start_rollout(input={}) for _ in range(AGENTS)]
        backend = await stack.enter_async_context(FaultyBackend(free_port()))
        gateway = await stack.enter_async_context(gateway_before(backend, folder=tmp_path, store=server.url))
        await gateway.start()
        agents = Agents(gateway, attempts)
        async with agents.working():
            await agents.until(lambda told: told.count > AGENTS)
            server.kill()
            before = agents.told.count
            await asyncio.sleep(seconds)  # how long it is down
            await agents.until(lambda told: told.count > before + 5 * AGENTS)
            during = agents.told.count
            await server.start()
            await agents.until(lambda told: told.count > during + AGENTS)
        assert agents.told.errors == {}
        records = await check(client, gateway, attempts, agents.told)
    show(
        f"store down for {seconds:g} s: {agents.told.count} replies, {during - before} of them then, {records} records"
    )


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=SOAK)])
async def test_a_gateway_that_is_killed_loses_and_repeats_nothing(
    tmp_path: Path, store: SqliteLightningStore, show: Show, kills: int
) -> None:
    attempts = [await store.start_rollout(input={}) for _ in range(AGENTS)]
    moments, began = random.Random(kills), time.monotonic()
    async with FaultyBackend(free_port()) as backend, gateway_before(backend, folder=tmp_path) as gateway:
        await gateway.start()
        agents = Agents(gateway, attempts)
        async with agents.working():
            for _ in range(kills):
                before = agents.told.count
                await agents.until(lambda told, before=before: told.count > before)
                await asyncio.sleep(moments.uniform(0.0, 0.3))  # so that it dies at any point
                gateway.kill()
                await gateway.start()
            before = agents.told.count
            await agents.until(lambda told: told.count > before + AGENTS)
        records = await check(store, gateway, attempts, agents.told)
    assert agents.told.errors
    seconds = time.monotonic() - began
    show(f"{kills} kills, {seconds:.0f} s: {agents.told.count} replies, {records} records, {dict(agents.told.errors)}")


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=SOAK)])
async def test_a_gateway_that_is_killed_while_the_store_is_down_loses_nothing(
    tmp_path: Path, show: Show, kills: int
) -> None:
    arguments = ["--file", str(tmp_path / "store.db"), "--synchronous", "NORMAL"]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ServerProcess(arguments, tmp_path / "store.log"))
        await server.start()
        client = await stack.enter_async_context(LightningStoreClient(server.url))
        attempts = [await client.start_rollout(input={}) for _ in range(AGENTS)]
        backend = await stack.enter_async_context(FaultyBackend(free_port()))
        gateway = await stack.enter_async_context(gateway_before(backend, folder=tmp_path, store=server.url))
        await gateway.start()
        agents = Agents(gateway, attempts)
        async with agents.working():
            server.kill()
            for _ in range(kills):
                before = agents.told.count
                await agents.until(lambda told, before=before: told.count > before + AGENTS)
                gateway.kill()
                await gateway.start()
            await server.start()
            before = agents.told.count
            await agents.until(lambda told: told.count > before + AGENTS)
        records = await check(client, gateway, attempts, agents.told)
    told = agents.told
    show(f"{kills} kills, the store down: {told.count} replies, {records} records, {dict(told.errors)}")
