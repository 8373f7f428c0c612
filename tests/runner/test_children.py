"""Agents in processes of their own behave as agents do, and cannot do harm."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from opentelemetry import trace as otel

from agentlightning.emitter import emit_message, find_final_reward, get_message_value, operation
from agentlightning.errors import AgentError, InvalidResult, RolloutCancelled
from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import LitAgent, rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import DummyTracer, OtelTracer, Tracer, get_active_tracer
from agentlightning.types import Hook, NamedResources, PromptTemplate, ProxyLLM, Rollout, Span

DEADLINE = 60.0


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


async def step(
    store: InMemoryLightningStore, agent: LitAgent[Any], tracer: Tracer | None = None, **options: Any
) -> tuple[Rollout, list[Span]]:
    runner = LitAgentRunner[Any](tracer or OtelTracer(), heartbeat_interval=0, isolation="process")
    with runner.run_context(agent=agent, store=store, hooks=options.pop("hooks", ())):
        async with asyncio.timeout(DEADLINE):
            done = await runner.step("task", **options)
    return done, list(await store.query_spans(done.rollout_id))


async def failure_of(store: InMemoryLightningStore, agent: LitAgent[Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        await step(store, agent)
    (found,) = await store.query_rollouts()
    assert found.status == "failed"
    return caught.value


# -- what an agent does ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracer", [OtelTracer, DummyTracer])
async def test_spans_come_in_the_order_in_which_they_started(
    store: InMemoryLightningStore, tracer: Callable[[], Tracer]
) -> None:
    test = os.getpid()

    @rollout
    def agent(task: str) -> dict[str, float]:
        assert os.getpid() != test
        with operation(name="outer"):
            emit_message("inner")
            thread = threading.Thread(target=emit_message, args=("from a thread",))
            thread.start()
            thread.join()
        return {"a": 0.25, "b": 1.0}

    done, spans = await step(store, agent, tracer())
    assert done.status == "succeeded"
    outer, inner, threads, reward = spans
    assert [span.sequence_id for span in spans] == [1, 2, 3, 4]
    assert {span.rollout_id for span in spans} == {done.rollout_id}
    assert [get_message_value(inner), get_message_value(threads)] == ["inner", "from a thread"]
    assert find_final_reward([reward]) == 0.25
    if tracer is OtelTracer:
        assert outer.parent_id is None
        assert {inner.parent_id, threads.parent_id} == {outer.span_id}


async def test_an_async_agent_and_its_library_are_traced(store: InMemoryLightningStore) -> None:
    @rollout
    async def agent(task: str) -> Any:
        with otel.get_tracer("a library").start_as_current_span("call") as span:
            await asyncio.to_thread(emit_message, "x" * 3_000_000)
        return [span]

    done, spans = await step(store, agent)
    assert done.status == "succeeded"
    assert [(span.name, span.sequence_id) for span in spans] == [("call", 1), ("agentlightning.message", 2)]
    assert len(str(get_message_value(spans[1]))) == 3_000_000


async def test_a_sync_agent_may_run_an_event_loop_or_return_an_awaitable(store: InMemoryLightningStore) -> None:
    async def say(text: str) -> float:
        emit_message(text)
        return 1.0

    @rollout
    def agent(task: str) -> Any:
        asyncio.run(say("own loop"))
        return say("ours")

    _, spans = await step(store, agent)
    assert [get_message_value(span) for span in spans[:2]] == ["own loop", "ours"]
    assert find_final_reward(spans) == 1.0


async def test_it_has_its_task_resources_and_tracer_and_no_input(store: InMemoryLightningStore) -> None:
    class Agent(LitAgent[str]):
        def training_rollout(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
            assert sys.stdin.read() == ""
            assert self.tracer is get_active_tracer()
            assert self.runner is not None
            emit_message(f"{task} {resources['prompt'].template} {resources['llm'].endpoint}")  # type: ignore[union-attr]
            return 1.0

        def rollout(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
            raise AssertionError("this is no validation")

    resources: NamedResources = {
        "prompt": PromptTemplate(template="{x}", engine="f-string"),
        "llm": ProxyLLM(endpoint="http://127.0.0.1:9/v1", model="m"),
    }
    done, spans = await step(store, Agent(), resources=resources, mode="train")
    assert str(get_message_value(spans[0])).startswith(f"task {{x}} http://127.0.0.1:9/rollout/{done.rollout_id}/")


async def test_hooks_see_its_spans(store: InMemoryLightningStore) -> None:
    class Look(Hook):
        async def on_trace_end(self, *, tracer: Tracer, **details: Any) -> None:
            seen.append([span.name for span in tracer.get_last_trace()])

        async def on_rollout_end(self, *, spans: Any, **details: Any) -> None:
            seen.append([span.name for span in spans])

    seen: list[list[str]] = []
    await step(store, rollout(lambda task: 1.0), hooks=[Look()])
    assert seen == [["agentlightning.annotation"]] * 2


async def test_it_may_close_its_output(store: InMemoryLightningStore) -> None:
    done, _ = await step(store, rollout(lambda task: sys.stdout.close()))
    assert done.status == "succeeded"


async def test_a_process_that_it_forks_does_not_garble_what_it_tells(store: InMemoryLightningStore) -> None:
    @rollout
    def agent(task: str) -> float:
        child = os.fork()
        if child == 0:
            for _ in range(100):
                emit_message("from the fork")
            os._exit(0)
        for number in range(100):
            emit_message(str(number))
        os.waitpid(child, 0)
        return 1.0

    _, spans = await step(store, agent)
    assert [get_message_value(span) for span in spans[:-1]] == [str(number) for number in range(100)]


async def test_many_at_once_keep_their_spans_apart(store: InMemoryLightningStore) -> None:
    @rollout
    def agent(task: int) -> float:
        emit_message(str(task))
        return float(task)

    for task in range(4):
        await store.enqueue_rollout(task)
    runner = LitAgentRunner[Any](OtelTracer(), max_rollouts=4, max_concurrency=4, isolation="process")
    with runner.run_context(agent=agent, store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    for done in await store.query_rollouts():
        message, reward = await store.query_spans(done.rollout_id)
        assert get_message_value(message) == str(done.input)
        assert find_final_reward([reward]) == done.input


# -- how it fails ------------------------------------------------------------------------------------------------------


class Mine(Exception):
    """An error that only this program knows."""


class Odd(Exception):
    """An error that cannot be put together again."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)


async def test_its_own_error_is_raised_here_and_tells_where(store: InMemoryLightningStore) -> None:
    def somewhere() -> None:
        raise Mine("no such thing")

    @rollout
    def agent(task: str) -> None:
        somewhere()

    error = await failure_of(store, agent)
    assert type(error) is Mine
    assert "in somewhere" in "".join(error.__notes__)


async def test_an_error_that_cannot_be_pickled_is_told_in_words(store: InMemoryLightningStore) -> None:
    @rollout
    def agent(task: str) -> None:
        raise Odd("no such thing", 5)

    error = await failure_of(store, agent)
    assert isinstance(error, AgentError)
    assert "Odd: no such thing" in str(error)


async def test_a_meaningless_result_is_refused(store: InMemoryLightningStore) -> None:
    error = await failure_of(store, rollout(lambda task: float("nan")))
    assert isinstance(error, InvalidResult)


async def test_an_agent_that_cannot_be_put_together_there_fails_its_attempt(store: InMemoryLightningStore) -> None:
    class Fragile:
        def __reduce__(self) -> Any:
            return int, ("not a number",)

    class Agent(LitAgent[str]):
        def __init__(self) -> None:
            super().__init__()
            self.part = Fragile()

    error = await failure_of(store, Agent())
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("size", [1, 10_000_000], ids=["while it starts", "while it gets its job"])
async def test_the_event_ends_it(store: InMemoryLightningStore, size: int) -> None:
    event = ThreadingEvent()

    class Set(Hook):
        async def on_trace_start(self, **details: Any) -> None:
            asyncio.get_running_loop().call_later(0.05, event.set)

    resources: NamedResources = {"prompt": PromptTemplate(template="x" * size, engine="f-string")}
    agent = rollout(lambda task: threading.Event().wait())
    with pytest.raises(RolloutCancelled):
        await step(store, agent, hooks=[Set()], event=event, resources=resources)
    (found,) = await store.query_rollouts()
    assert found.status == "failed"


async def test_an_agent_sees_the_arguments_of_the_program(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--size", "it's 7"])
    _, spans = await step(store, rollout(lambda task: emit_message(repr(sys.argv))))
    assert [get_message_value(span) for span in spans] == [repr(sys.argv)]
