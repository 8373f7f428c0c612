"""The last spans of an attempt reach the store in one with its success, and in any case."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from agentlightning.emitter import emit_message, emit_reward, get_message_value, get_reward_value, operation
from agentlightning.errors import LeaseLost, RolloutCancelled, StoreError, TooLarge
from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import LitAgent, rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore, LightningStoreThreaded
from agentlightning.store.operations import Operation
from agentlightning.tracer import DummyTracer, OtelTracer, Tracer
from agentlightning.types import Hook, Rollout, Span

DEADLINE = 30.0


class Watched(LightningStoreThreaded):
    """Counts the operations, and refuses those that are told to fail."""

    def __init__(self) -> None:
        super().__init__(InMemoryLightningStore())
        self.calls: Counter[str] = Counter()
        self.refusals: dict[str, list[Exception]] = {}

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        self.calls[operation.name] += 1
        if refusals := self.refusals.get(operation.name):
            raise refusals.pop(0)
        return await super().call(operation, arguments)

    async def messages(self) -> list[str | None]:
        (found,) = await self.query_rollouts()
        return [get_message_value(span) for span in await self.query_spans(found.rollout_id)]

    async def status(self) -> str:
        (found,) = await self.query_rollouts()
        return found.status


@pytest.fixture
async def store() -> AsyncGenerator[Watched]:
    made = Watched()
    yield made
    await made.close()


async def step(
    store: Watched, agent: LitAgent[Any], tracer: Tracer | None = None, hooks: Sequence[Hook] = ()
) -> Rollout:
    runner = LitAgentRunner[Any](tracer or DummyTracer(), heartbeat_interval=0, max_outage=0.0)
    with runner.run_context(agent=agent, store=store, hooks=hooks):
        async with asyncio.timeout(DEADLINE):
            return await runner.step("task")


def delayed(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Let a call of the store take a while."""

    async def later(*args: Any) -> Any:
        await asyncio.sleep(0.1)
        return await call(*args)

    return later


@rollout
async def three_messages(task: str) -> None:
    for text in "abc":
        emit_message(text)


@pytest.mark.parametrize("tracer", [DummyTracer, OtelTracer])
async def test_a_rollout_needs_one_write_after_its_claim(store: Watched, tracer: type[Tracer]) -> None:
    await store.enqueue_rollout("task")
    event = ThreadingEvent()

    @rollout
    async def agent(task: str) -> float:
        emit_message("done")
        event.set()
        return 1.0

    runner = LitAgentRunner[Any](tracer(), heartbeat_interval=0, max_rollouts=1)
    with runner.run_context(agent=agent, store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    assert event.is_set()
    writes = {name for name in store.calls if not name.startswith(("query", "get_latest", "wait"))}
    assert writes == {"enqueue_many_rollouts", "dequeue_many_rollouts", "finish_attempt"}
    assert store.calls["finish_attempt"] == 1
    (found,) = await store.query_rollouts()
    spans = await store.query_spans(found.rollout_id)
    assert (found.status, [span.sequence_id for span in spans]) == ("succeeded", [1, 2])


async def test_what_awaits_has_its_places_in_the_order_of_its_starts(store: Watched) -> None:
    @rollout
    async def agent(task: str) -> None:
        emit_message("a")
        await asyncio.sleep(0.05)
        emit_message("b")
        emit_message("c")

    await step(store, agent)
    assert await store.messages() == ["a", "b", "c"]


async def test_a_refusal_of_all_together_costs_nothing(store: Watched) -> None:
    store.refusals["finish_attempt"] = [TooLarge("all of it")]
    assert (await step(store, three_messages)).status == "succeeded"
    assert await store.messages() == ["a", "b", "c"]


async def test_a_span_that_nobody_takes_fails_its_attempt(store: Watched) -> None:
    store.refusals["finish_attempt"] = [TooLarge("a span")]
    store.refusals["add_many_spans"] = [TooLarge("a span")] * 3
    with pytest.raises(TooLarge):
        await step(store, three_messages)
    assert await store.status() == "failed"


async def test_spans_are_written_also_where_the_attempt_is_lost(store: Watched) -> None:
    store.refusals["finish_attempt"] = [LeaseLost("it was ended")]
    with pytest.raises(RolloutCancelled):
        await step(store, three_messages)
    assert await store.messages() == ["a", "b", "c"]


async def test_spans_are_written_also_where_the_success_is_not(store: Watched) -> None:
    store.refusals["finish_attempt"] = [StoreError("it is away")]
    with pytest.raises(StoreError, match="it is away"):
        await step(store, three_messages)
    assert await store.status() == "failed"
    async with asyncio.timeout(DEADLINE):
        while await store.messages() != ["a", "b", "c"]:
            pass


async def test_a_step_cancelled_as_it_finishes_has_failed_with_all_its_spans(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = asyncio.Event()

    async def hang(*args: Any, **changes: Any) -> None:
        writing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(store, "finish_attempt", hang)
    task = asyncio.create_task(step(store, three_messages))
    async with asyncio.timeout(DEADLINE):
        await writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.status() == "failed"
    assert await store.messages() == ["a", "b", "c"]


async def test_what_ends_after_the_agent_is_written_too(store: Watched) -> None:
    agent_has_ended, thread_has_ended = threading.Event(), threading.Event()

    @rollout
    async def agent(task: str) -> float:
        def emit_late() -> None:
            agent_has_ended.wait(DEADLINE)
            emit_message("late")
            thread_has_ended.set()

        threading.Thread(target=emit_late).start()
        emit_message("in time")
        return 1.0

    await step(store, agent, OtelTracer())
    agent_has_ended.set()
    await asyncio.to_thread(thread_has_ended.wait, DEADLINE)
    async with asyncio.timeout(DEADLINE):
        while "late" not in await store.messages():
            pass
    assert (await store.messages())[0] == "in time"


async def test_many_spans_take_their_usual_way(store: Watched) -> None:
    texts = [str(number) for number in range(200)]

    @rollout
    async def agent(task: str) -> None:
        for text in texts:
            emit_message(text)

    await step(store, agent)
    assert await store.messages() == texts
    assert store.calls["finish_attempt"] == 0


@pytest.mark.parametrize("size", [1, 300_000])
@pytest.mark.parametrize("count", [1, 60])
@pytest.mark.parametrize("tracer", [DummyTracer, OtelTracer])
async def test_what_an_agent_returns_is_its_last_reward(
    store: Watched, tracer: type[Tracer], count: int, size: int
) -> None:
    @rollout
    async def agent(task: str) -> float:
        for _ in range(count):
            emit_reward(0.0)
        emit_message("x" * size)
        return 1.0

    done = await step(store, agent, tracer())
    spans = await store.query_spans(done.rollout_id)
    rewards = [reward for span in spans if (reward := get_reward_value(span)) is not None]
    assert rewards == [0.0] * count + [1.0]


def nested_at_once() -> None:
    with operation(name="1"):
        with operation(name="2"):
            emit_message("3")
        emit_message("4")
    with operation(name="5"):
        pass


async def nested(pause: float) -> None:
    with operation(name="1"):
        with operation(name="2"):
            await asyncio.sleep(pause)
            emit_message("3")
        emit_message("4")
    with operation(name="5"):
        await asyncio.sleep(pause)


async def numbers(store: Watched) -> dict[str, int]:
    (found,) = await store.query_rollouts()
    return {_label(span): span.sequence_id for span in await store.query_spans(found.rollout_id)}


def _label(span: Span) -> str:
    return get_message_value(span) or str(span.attributes.get("agentlightning.operation.name", "reward"))


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("pause", [None, 0.02])
async def test_parents_come_before_their_children(
    store: Watched, monkeypatch: pytest.MonkeyPatch, pause: float | None, slow: bool, many: bool
) -> None:
    if slow:
        monkeypatch.setattr(store, "get_many_span_sequence_ids", delayed(store.get_many_span_sequence_ids))

    @rollout
    async def agent(task: str) -> float:
        emit_message("0")
        await asyncio.sleep(0)
        if pause is None:
            nested_at_once()
        else:
            await nested(pause)
        for number in range(60 if many else 0):
            emit_message(str(6 + number))
        return 1.0

    await step(store, agent, OtelTracer())
    found = await numbers(store)
    reward = found.pop("reward")
    assert found == {str(number): number + 1 for number in range(len(found))}
    assert reward == len(found) + 1


async def test_a_parent_comes_before_a_child_that_is_still_open(store: Watched) -> None:
    agent_has_ended, tasks = asyncio.Event(), list[asyncio.Task[None]]()

    async def child() -> None:
        with operation(name="child"):
            await agent_has_ended.wait()

    @rollout
    async def agent(task: str) -> float:
        with operation(name="parent"):
            tasks.append(asyncio.create_task(child()))
            with operation(name="other"):
                pass
            await asyncio.sleep(0)
        return 1.0

    await step(store, agent, OtelTracer())
    agent_has_ended.set()
    await asyncio.gather(*tasks)
    async with asyncio.timeout(DEADLINE):
        while "child" not in await numbers(store):
            pass
    found = await numbers(store)
    assert found["parent"] == min(found.values())


async def test_the_store_has_all_spans_before_it_hears_of_a_failure(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was away as the attempt ended, and takes its time for them when it is back."""
    store.refusals["finish_attempt"] = [StoreError("it is away")]
    monkeypatch.setattr(store, "add_many_spans", delayed(store.add_many_spans))
    with pytest.raises(StoreError, match="it is away"):
        await step(store, three_messages)
    assert await store.status() == "failed"
    assert await store.messages() == ["a", "b", "c"]


async def test_hooks_see_all_spans_as_the_store_has_them(store: Watched) -> None:
    seen: list[int] = []

    class Looking(Hook):
        async def on_rollout_end(self, *, spans: Sequence[Any], **details: Any) -> None:
            seen.extend(span.sequence_id for span in spans)

    @rollout
    async def agent(task: str) -> None:
        emit_reward(1.0)
        emit_message("b")

    await step(store, agent, hooks=[Looking()])
    assert seen == [1, 2]
    assert store.calls["finish_attempt"] == 0
