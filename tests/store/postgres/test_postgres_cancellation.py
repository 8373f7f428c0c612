"""Callers that are cancelled, at every step of a transaction and behind it: nothing stays claimed that nobody holds."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from agentlightning.errors import StoreClosed
from agentlightning.store import LightningStore
from agentlightning.store.postgres import PostgresLightningStore
from agentlightning.store.postgres.transaction import PostgresTransaction
from agentlightning.types import Attempt, AttemptedRollout, Rollout, RolloutConfig
from tests.store.conftest import OpenPostgres

PATIENCE = 10.0
TWICE = RolloutConfig(max_attempts=2, retry_condition=["failed"])

Picture = tuple[list[Rollout], dict[str, list[Attempt]]]


async def picture(store: LightningStore) -> Picture:
    rollouts = list(await store.query_rollouts())
    return rollouts, {r.rollout_id: list(await store.query_attempts(r.rollout_id)) for r in rollouts}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110  # what another thread does has no event
            await asyncio.sleep(0.005)


async def until_quiet(store: PostgresLightningStore) -> None:
    """Wait until what cancelled callers asked for is done and undone."""

    async def quiet() -> bool:
        return not store._engine.calls._pending

    await until(quiet)


def in_a_thread(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Run in another loop; this one stands still meanwhile."""
    thread = threading.Thread(target=lambda: asyncio.run(work()))  # type: ignore[arg-type]
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


async def cancel_unheard(other: LightningStore, operation: Coroutine[Any, Any, object]) -> None:
    """Cancel an operation that starts an attempt after its commit and before its caller hears of it."""
    before = await picture(other)

    async def committed() -> bool:
        return await picture(other) != before

    calling = asyncio.create_task(operation)
    await asyncio.sleep(0)
    in_a_thread(lambda: until(committed))
    calling.cancel()
    await asyncio.wait({calling}, timeout=PATIENCE)
    assert calling.cancelled()


@pytest.fixture
async def other(open_postgres: OpenPostgres) -> PostgresLightningStore:
    """Looks on from another program."""
    return open_postgres()


@pytest.mark.parametrize("kind", ["start_rollout", "start_attempt", "dequeue"])
async def test_an_attempt_that_nobody_heard_of_vanishes(
    postgres: PostgresLightningStore, other: PostgresLightningStore, kind: str
) -> None:
    rollout = await postgres.enqueue_rollout(1)
    before = await picture(other)
    operations: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "start_rollout": lambda: postgres.start_rollout(2, worker_id="w"),
        "start_attempt": lambda: postgres.start_attempt(rollout.rollout_id, "w"),
        "dequeue": lambda: postgres.dequeue_rollout("w"),
    }
    await cancel_unheard(other, operations[kind]())

    async def undone() -> bool:
        return await picture(other) == before

    await until(undone)
    worker = await other.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.current_attempt_id) == ("idle", None)


async def test_an_undone_claim_wakes_those_who_wait_for_work(
    postgres: PostgresLightningStore, other: PostgresLightningStore
) -> None:
    rollout = await postgres.enqueue_rollout(1)

    claiming = asyncio.create_task(postgres.dequeue_rollout("w"))
    await asyncio.sleep(0)

    async def committed() -> bool:
        return (await other.query_rollouts(status_in=["preparing"])).total == 1

    in_a_thread(lambda: until(committed))
    later = asyncio.create_task(other.dequeue_rollout("late", wait=PATIENCE))
    claiming.cancel()
    claim = await later
    assert claiming.cancelled()
    assert claim is not None
    assert claim.rollout_id == rollout.rollout_id


async def test_an_attempt_that_was_moved_meanwhile_is_ended_instead(
    postgres: PostgresLightningStore, other: PostgresLightningStore
) -> None:
    rollout = await postgres.enqueue_rollout(1, config=TWICE)

    async def restart() -> None:
        async def claimed() -> bool:
            return (await other.query_rollouts(status_in=["preparing"])).total == 1

        await until(claimed)
        await other.start_attempt(rollout.rollout_id, "other")

    calling = asyncio.create_task(postgres.dequeue_rollout("w"))
    await asyncio.sleep(0)
    in_a_thread(restart)
    calling.cancel()
    await asyncio.wait({calling}, timeout=PATIENCE)

    async def ended() -> bool:
        attempts = await other.query_attempts(rollout.rollout_id)
        return [(a.worker_id, a.status) for a in attempts] == [("w", "failed"), ("other", "preparing")]

    await until(ended)


@pytest.mark.parametrize("step", range(9))
async def test_no_step_of_a_transaction_leaves_an_orphan(
    postgres: PostgresLightningStore, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each operation is cancelled when it sends its so-and-so-manieth statement, or soon after its end."""
    queued = [await postgres.enqueue_rollout(i) for i in range(3)]
    for call in (
        lambda: postgres.dequeue_many_rollouts(limit=2, worker_id="w"),
        lambda: postgres.start_attempt(queued[0].rollout_id, "w"),
        lambda: postgres.start_rollout(1, worker_id="w"),
        lambda: postgres.dequeue_rollout("w", wait=PATIENCE),
    ):
        before = await picture(postgres)
        with monkeypatch.context() as patch:
            calling = asyncio.ensure_future(call())
            _cancel_at(patch, calling, step)
            await asyncio.wait({calling}, timeout=PATIENCE)
        if not calling.cancelled():
            made = calling.result()
            for claim in made if isinstance(made, list) else [made]:
                assert isinstance(claim, AttemptedRollout)
                await postgres.update_rollout(claim.rollout_id, status="succeeded")
            continue
        await until_quiet(postgres)
        assert await picture(postgres) == before


def _cancel_at(patch: pytest.MonkeyPatch, task: asyncio.Future[Any], step: int) -> None:
    """Cancel the task when the transaction of its thread comes to its `step`th statement; 0 is before it begins."""
    loop = asyncio.get_running_loop()
    if step == 0:
        loop.call_soon(task.cancel)
        return
    count = 0

    def counted(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                cancelled = asyncio.Event()
                here = asyncio.get_running_loop()

                def cancel() -> None:
                    task.cancel()
                    here.call_soon_threadsafe(cancelled.set)

                loop.call_soon_threadsafe(cancel)
                await asyncio.wait_for(cancelled.wait(), PATIENCE)
            return await method(*args)

        return call

    for name in ("fetch", "execute", "execute_many"):
        patch.setattr(PostgresTransaction, name, counted(getattr(PostgresTransaction, name)))


@pytest.mark.parametrize("pause", [0.0005 * i for i in range(16)])
async def test_no_moment_leaves_an_orphan(postgres: PostgresLightningStore, pause: float) -> None:
    queued = [await postgres.enqueue_rollout(i) for i in range(6)]
    calling = [
        asyncio.ensure_future(call)
        for rollout in queued
        for call in (
            postgres.start_rollout(0),
            postgres.start_attempt(rollout.rollout_id),
            postgres.dequeue_rollout(),
            postgres.dequeue_rollout(wait=PATIENCE),
        )
    ]
    await asyncio.sleep(pause)
    for task in calling:
        task.cancel()
    await asyncio.wait(calling, timeout=PATIENCE)
    heard = {task.result().attempt.attempt_id for task in calling if not task.cancelled() and task.result()}  # type: ignore[union-attr]

    await until_quiet(postgres)
    _, attempts = await picture(postgres)
    assert {a.attempt_id for of_one in attempts.values() for a in of_one if a.status == "preparing"} <= heard


async def test_closing_undoes_claims_that_nobody_heard_of(
    postgres: PostgresLightningStore, other: PostgresLightningStore
) -> None:
    await postgres.enqueue_rollout(1)
    for task in (claiming := [asyncio.create_task(postgres.dequeue_rollout()) for _ in range(3)]):
        await asyncio.sleep(0.001)
        task.cancel()
    await asyncio.wait(claiming, timeout=PATIENCE)
    await postgres.close()
    heard = [task for task in claiming if not task.cancelled() and task.result()]
    assert len(await other.dequeue_many_rollouts(limit=10)) == 1 - len(heard)


async def test_a_claim_that_a_standing_loop_never_takes_goes_back(
    postgres: PostgresLightningStore, other: PostgresLightningStore
) -> None:
    """A notebook's loop stands still between two cells."""
    made = await postgres.enqueue_rollout(1)

    async def claimed() -> bool:
        return (await other.query_rollouts(status_in=["preparing"])).total == 1

    def claim_in_a_loop_that_stops() -> tuple[asyncio.AbstractEventLoop, asyncio.Task[AttemptedRollout | None]]:
        loop = asyncio.new_event_loop()
        claiming = loop.create_task(postgres.dequeue_rollout())
        loop.call_soon(in_a_thread, lambda: until(claimed))
        loop.call_soon(loop.stop)
        loop.run_forever()
        return loop, claiming

    loop, claiming = await asyncio.to_thread(claim_in_a_loop_that_stops)
    assert not claiming.done()
    await postgres.close()
    back = await other.dequeue_rollout()
    assert back is not None
    assert back.rollout_id == made.rollout_id
    with pytest.raises(StoreClosed):
        await asyncio.to_thread(loop.run_until_complete, claiming)
    loop.close()
