from __future__ import annotations

import asyncio

import pytest

import agentlightning as agl
from agentlightning.errors import StoreError
from agentlightning.execution import ThreadingEvent
from agentlightning.execution.membership import Membership
from agentlightning.execution.run_store import Members, RunClient, RunServer, RunStore


async def test_members_hear_of_the_end_over_http_and_get_numbers_of_their_own() -> None:
    event = ThreadingEvent()
    store = RunStore(agl.InMemoryLightningStore(), event, runners=2)
    server = RunServer(store, None, 0, None, None)
    await server.start()
    try:
        async with RunClient(server.endpoint) as client:
            assert [await client.join_run(3), await client.join_run(1)] == [2, 5]
            assert await client.watch_run("2") is False
            watching = asyncio.create_task(client.watch_run("2", wait=60))
            event.set()
            assert await watching
            await client.enqueue_rollout("the store is all there")
            await client.leave_run("2")
            await client.leave_run("5")
            assert store.members.wait_until_gone(0) == 0
    finally:
        await server.stop()


async def test_member_whose_process_goes_is_not_waited_for() -> None:
    store = RunStore(agl.InMemoryLightningStore(), ThreadingEvent(), runners=0)
    watching = asyncio.create_task(store.watch_run(str(await store.join_run(1)), wait=60))
    await asyncio.sleep(0)
    assert store.members.wait_until_gone(0) == 1
    watching.cancel()
    await asyncio.wait({watching})
    assert store.members.wait_until_gone(0) == 0


def test_members_that_leave_wake_who_waits_for_them() -> None:
    members = Members(0)
    members.see("0", float("inf"))
    assert members.wait_until_gone(0.01) == 1
    members.remove("0")
    assert members.wait_until_gone(60) == 0


async def test_runners_serve_a_store_without_a_run_until_they_are_stopped(caplog: pytest.LogCaptureFixture) -> None:
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0)
    await server.start()
    try:
        async with RunClient(server.endpoint) as client:
            membership, over = Membership(client), ThreadingEvent()
            await membership.join(1)
            assert "belongs to no run" in caplog.text
            serving = asyncio.create_task(membership.until_the_end(over))
            await client.statistics()
            assert not serving.done()
            over.set()
            await serving
            await membership.leave()
    finally:
        await server.stop()


async def test_wrong_token_is_told_at_once() -> None:
    server = RunServer(RunStore(agl.InMemoryLightningStore(), ThreadingEvent(), 0), None, 0, "secret", None)
    await server.start()
    try:
        async with RunClient(server.endpoint, token="wrong") as client:
            with pytest.raises(StoreError, match="unknown here"):
                await Membership(client).join(1)
    finally:
        await server.stop()
