"""The wrapper hands everything on, and adds nothing."""

import asyncio
import inspect
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.store.base import OPERATIONS
from agentlightning.store.operations import Operation
from agentlightning.store.threaded import LightningStoreThreaded
from agentlightning.types import EnqueueRolloutRequest


@asynccontextmanager
async def _opened() -> AsyncIterator[tuple[LightningStore, LightningStoreThreaded]]:
    inner = InMemoryLightningStore()
    yield inner, LightningStoreThreaded(inner)
    await inner.close()


class Recording(LightningStoreThreaded):
    """Keeps what it is asked for, and answers None."""

    def __init__(self) -> None:
        super().__init__(LightningStore())
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> None:
        self.calls.append((operation.name, arguments))


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.name)
async def test_every_argument_is_handed_on_however_it_is_passed(operation: Operation) -> None:
    store = Recording()
    parameters = operation.signature.parameters
    given = {name: object() for name in parameters}
    positional = [name for name, parameter in parameters.items() if parameter.kind is not parameter.KEYWORD_ONLY]
    keywords = {name: value for name, value in given.items() if name not in positional}
    await getattr(store, operation.name)(**given)
    await getattr(store, operation.name)(*(given[name] for name in positional), **keywords)
    assert store.calls == [(operation.name, given)] * 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((), {}), (("ro", "again"), {"rollout_id": "ro"}), (("ro",), {"unknown": 1}), (("ro", *[1] * 9), {})],
)
async def test_call_that_does_not_fit_is_a_type_error(arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        inspect.signature(LightningStore().update_rollout).bind(*arguments, **named)
    store = Recording()
    with pytest.raises(TypeError):
        await store.update_rollout(*arguments, **named)
    assert store.calls == []


async def test_older_names_are_handed_on() -> None:
    async with _opened() as (_, wrapper):
        one, two = await wrapper.enqueue_rollout(1), await wrapper.enqueue_rollout(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found = await wrapper.query_rollouts(status=["queuing"], rollout_ids=[two.rollout_id])
        assert [rollout.rollout_id for rollout in found] == [two.rollout_id] != [one.rollout_id]


async def test_statistics_and_capabilities_are_the_inner_stores() -> None:
    async with _opened() as (inner, wrapper):
        await wrapper.start_rollout(1, worker_id="w")
        mine, its = dict(await wrapper.statistics()), dict(await inner.statistics())
        assert mine.pop("uptime") is not None
        its.pop("uptime")
        assert mine == its
        assert wrapper.capabilities == inner.capabilities


class Watching(LightningStoreThreaded):
    """Notes what passes."""

    def __init__(self, store: LightningStore) -> None:
        super().__init__(store)
        self.seen: list[str] = []

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        self.seen.append(operation.name)
        return await super().call(operation, arguments)


async def test_what_has_a_key_passes_through_a_subclass_too() -> None:
    inner = InMemoryLightningStore()
    watching = Watching(LightningStoreThreaded(inner))
    made = [await watching.keyed("key", b"body").enqueue_rollout(1) for _ in range(2)]
    assert made[0] == made[1]
    assert (await inner.query_rollouts()).total == 1
    assert watching.seen == ["enqueue_many_rollouts"] * 2
    assert await watching.keyed("claim", b"body").dequeue_rollout() is not None
    await watching.withdraw("claim")
    assert [rollout.status for rollout in await watching.query_rollouts()] == ["queuing"]
    await watching.close()


async def test_threads_share_it() -> None:
    async with _opened() as (_, wrapper):
        failures: list[BaseException] = []

        def work() -> None:
            try:
                asyncio.run(_enqueue(wrapper))
            except BaseException as error:  # noqa: BLE001  # shown by the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, 10)
        assert failures == []
        assert (await wrapper.query_rollouts(limit=0)).total == 40


async def _enqueue(store: LightningStore) -> None:
    for n in range(10):
        await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n)])
