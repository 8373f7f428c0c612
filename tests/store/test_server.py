"""The server object: where it runs, what it refuses, and what other processes get of it."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rest import rest_of

from agentlightning.errors import AddressTaken, ConfigurationError
from agentlightning.serving import EmbeddedServer, url_of
from agentlightning.store import (
    InMemoryLightningStore,
    LightningStoreClient,
    LightningStoreServer,
    SqliteLightningStore,
)


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


@pytest.mark.parametrize("mode", ["thread", "asyncio"])
async def test_it_serves_and_can_be_started_again(store: InMemoryLightningStore, mode: Any) -> None:
    server = LightningStoreServer(store, port=0, launch_mode=mode)
    for count in range(2):
        await server.start()
        async with LightningStoreClient(server.endpoint) as client:
            await client.enqueue_rollout(count)
            assert (await client.query_rollouts()).total == count + 1
        await server.stop()
    assert (await store.query_rollouts()).total == 2
    await server.stop()


async def test_a_thread_serves_while_the_programs_loop_is_busy(store: InMemoryLightningStore) -> None:
    server = LightningStoreServer(store, port=0)
    await server.start()

    def ask() -> int:
        async def enqueue() -> int:
            async with LightningStoreClient(server.endpoint) as client:
                await client.enqueue_rollout(1)
                return (await client.query_rollouts()).total

        return asyncio.run(enqueue())

    heard: list[int] = []
    thread = threading.Thread(target=lambda: heard.append(ask()))
    thread.start()
    thread.join(30)  # blocks this loop
    assert heard == [1]
    await server.stop()


def test_a_thread_may_be_started_from_one_loop_and_stopped_from_another() -> None:
    store = InMemoryLightningStore()
    server = LightningStoreServer(store, port=0)
    asyncio.run(server.start())
    asyncio.run(server.stop())
    asyncio.run(store.close())
    assert not any(thread.name == "agl-store-server" for thread in threading.enumerate())


async def test_used_as_a_store_it_is_the_store(store: InMemoryLightningStore) -> None:
    server = LightningStoreServer(store, port=0)
    made = await server.enqueue_rollout(1)
    assert await store.get_rollout_by_id(made.rollout_id) == made
    assert server.capabilities.get("zero_copy")
    assert server.capabilities.get("otlp_traces")


async def test_the_address_is_known_before_the_start_unless_the_port_is_to_be_picked(
    store: InMemoryLightningStore,
) -> None:
    assert LightningStoreServer(store).endpoint == "http://127.0.0.1:4747"
    assert LightningStoreServer(store, "localhost", 80).otlp_traces_endpoint() == "http://localhost:80/v1/traces"
    with pytest.raises(ConfigurationError, match="started"):
        _ = LightningStoreServer(store, port=0).endpoint


def test_an_address_of_all_interfaces_is_told_as_one_that_others_reach() -> None:
    for host in ("0.0.0.0", "::"):
        assert "0.0.0.0" not in url_of(host, 1)
        assert "[::]" not in url_of(host, 1)
    assert url_of("::1", 1) == "http://[::1]:1"


@pytest.mark.parametrize("mode", ["thread", "asyncio"])
async def test_a_taken_port_is_named(store: InMemoryLightningStore, mode: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = LightningStoreServer(store, port=taken.getsockname()[1], launch_mode=mode)
        for begin in (server.start, server.run_forever):
            with pytest.raises(RuntimeError, match=r"(?i)address already in use") as refusal:
                await begin()
            assert isinstance(refusal.value, AddressTaken)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"launch_mode": "mp"}, "The store does not support zero-copy."),
        ({"n_workers": 2}, "The store does not support zero-copy."),
        ({"launch_mode": "fork"}, "'thread' or 'asyncio'"),
        ({"launcher_args": "uvicorn"}, "launcher_args"),
        ({"host": "0.0.0.0"}, "AGL_TOKEN"),
        ({"host": "example.org"}, "AGL_TOKEN"),
        ({"token": "two words"}, "visible ASCII"),
        ({"token": ""}, "empty"),
        ({"token": "schl\u00fcssel"}, "visible ASCII"),
    ],
    ids=str,
)
async def test_what_cannot_work_is_refused_at_once(
    store: InMemoryLightningStore, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        LightningStoreServer(store, **arguments)


async def test_run_forever_serves_until_it_is_cancelled(store: InMemoryLightningStore) -> None:
    server = LightningStoreServer(store, port=0, launch_mode="asyncio")
    running = asyncio.create_task(server.run_forever())
    async with asyncio.timeout(10):
        while not server._server.running:  # noqa: ASYNC110  # it has no other sign of life
            await asyncio.sleep(0.001)
    async with LightningStoreClient(server.endpoint) as client:
        await client.statistics()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not server._server.running


def test_pickled_before_its_port_is_known_it_says_what_to_do(store: InMemoryLightningStore) -> None:
    with pytest.raises(ConfigurationError, match="start it first"):
        pickle.dumps(LightningStoreServer(store, port=0))


def test_a_client_takes_no_empty_token() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        LightningStoreClient("http://127.0.0.1:4747", token="")


async def test_pickled_it_is_a_client_of_its_address(store: InMemoryLightningStore) -> None:
    server = LightningStoreServer(store, port=0, token="a-token")
    await server.start()
    client = pickle.loads(pickle.dumps(server))
    assert isinstance(client, LightningStoreClient)
    made = await client.enqueue_rollout(1)
    assert await store.get_rollout_by_id(made.rollout_id) == made
    await client.close()
    await server.stop()


def _enqueue(store: Any) -> None:
    async def run() -> None:
        await store.enqueue_rollout("from a child")

    asyncio.run(run())


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_a_child_process_writes_to_the_parents_store(tmp_path: Any, method: str) -> None:
    store = SqliteLightningStore(tmp_path / "store.db")
    server = LightningStoreServer(store, port=0)
    await server.start()
    child = multiprocessing.get_context(method).Process(target=_enqueue, args=(server,))
    child.start()
    await asyncio.to_thread(child.join, 60)
    assert child.exitcode == 0
    assert [rollout.input for rollout in await store.query_rollouts()] == ["from a child"]
    await server.stop()
    await store.close()


async def test_a_forked_servers_operations_go_to_its_address(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = LightningStoreServer(store, port=0)
    await server.start()
    monkeypatch.setattr(server, "_process", -1)  # as if this were a child's copy
    monkeypatch.setattr(server, "store", None)
    await server.enqueue_rollout("from a child")
    await server._remote.close()
    assert [rollout.input for rollout in await store.query_rollouts()] == ["from a child"]
    await server.stop()


@pytest.mark.parametrize("mode", ["thread", "asyncio"])
async def test_who_waits_is_answered_at_once_when_the_server_stops(mode: Any) -> None:
    waits = threading.Event()

    class WatchedStore(InMemoryLightningStore):
        async def wait_for_rollouts(self, **arguments: Any) -> Any:
            waits.set()
            return await super().wait_for_rollouts(**arguments)

    store = WatchedStore()
    rollout = await store.enqueue_rollout(1)
    server = LightningStoreServer(store, port=0, launch_mode=mode)
    await server.start()
    async with rest_of(server.endpoint) as rest:
        waiting = asyncio.create_task(rest.post("/waits/rollouts", {"rollout_ids": [rollout.rollout_id]}))
        assert await asyncio.to_thread(waits.wait, 10)
        await server.stop()
        reply = await asyncio.wait_for(waiting, 10)
    assert (reply.status, reply.body["error"]) == (503, "StoreClosed")
    await store.close()


async def test_requests_that_are_under_way_end_before_the_server_does() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class SlowStore(InMemoryLightningStore):
        async def statistics(self) -> Any:
            begun.set()
            await go_on.wait()
            return {"name": "slow"}

    store = SlowStore()
    server = LightningStoreServer(store, port=0, launch_mode="asyncio")
    await server.start()
    async with LightningStoreClient(server.endpoint) as client:
        asked = asyncio.create_task(client.statistics())
        await asyncio.wait_for(begun.wait(), 10)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        go_on.set()
        assert (await asyncio.wait_for(asked, 10)).get("name") == "slow"
        await asyncio.wait_for(stopping, 10)
    await store.close()


async def test_embedded_servers_take_no_websockets() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    server = EmbeddedServer(app)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert b"204" in await asyncio.wait_for(reader.readline(), 10)
    assert seen == ["http"]
    writer.close()
    await writer.wait_closed()
    await server.stop()
