"""Who wants to know the same at the same time shares one look, which never began before they asked."""

import asyncio

import pytest

from agentlightning.store import InMemoryLightningStore
from agentlightning.store.looks import Looks

PATIENCE = 10.0


class Look:
    """Counts its beginnings, and ends when it may."""

    def __init__(self) -> None:
        self.begun = 0
        self.free = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        await self.free.wait()
        return number


async def test_one_look_serves_all_who_came_before_it_began() -> None:
    looks, look = Looks(), Look()
    early = [asyncio.create_task(looks.share("a", look)) for _ in range(5)]
    other = asyncio.create_task(looks.share("b", look))
    await asyncio.wait({other}, timeout=0.01)
    late = asyncio.create_task(looks.share("a", look))
    await asyncio.wait({late}, timeout=0.01)
    early[0].cancel()
    look.free.set()
    outcomes = await asyncio.wait_for(asyncio.gather(*early, other, late, return_exceptions=True), PATIENCE)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1:] == [1, 1, 1, 1, 2, 3]
    assert looks._coming == {}


async def test_whoever_asks_hears_of_a_failure() -> None:
    async def fail() -> None:
        raise ValueError("on purpose")

    looks = Looks()
    for outcome in await asyncio.gather(*(looks.share(1, fail) for _ in range(3)), return_exceptions=True):
        assert isinstance(outcome, ValueError)
    leaving = asyncio.create_task(looks.share(1, fail))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})


async def test_waiters_of_one_rollout_look_together(monkeypatch: pytest.MonkeyPatch) -> None:
    store = InMemoryLightningStore()
    reads = 0
    read = store.read

    async def counted(operation):  # type: ignore[no-untyped-def]
        nonlocal reads
        reads += 1
        return await read(operation)

    monkeypatch.setattr(store, "read", counted)
    rollout = await store.enqueue_rollout("awaited", metadata={"of": "all"})
    waits = [asyncio.create_task(store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])) for _ in range(100)]
    await asyncio.wait(waits, timeout=0.05)
    await store.update_rollout(rollout.rollout_id, status="succeeded")
    heard = [finished for (finished,) in await asyncio.wait_for(asyncio.gather(*waits), PATIENCE)]
    assert reads < 10
    assert {one.status for one in heard} == {"succeeded"}
    heard[0].metadata["of"] = "one"  # type: ignore[index]
    assert heard[1].metadata == {"of": "all"}
    await store.close()
