from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from opentelemetry import trace as otel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agentlightning.emitter import emit_message, emit_reward, find_final_reward, get_message_value
from agentlightning.emitter.reward import get_rewards_from_span
from agentlightning.errors import (
    ConfigurationError,
    InvalidResult,
    LeaseLost,
    MissingResource,
    RolloutCancelled,
    StoreError,
    TooLarge,
)
from agentlightning.execution.events import MultiprocessingEvent, ThreadingEvent
from agentlightning.litagent import LitAgent, rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.serving import EmbeddedServer
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import DummyTracer, OtelTracer, Tracer, get_active_tracer
from agentlightning.types import (
    LLM,
    Attempt,
    AttemptedRollout,
    Hook,
    NamedResources,
    PromptTemplate,
    ProxyLLM,
    Rollout,
    Span,
    SpanCoreFields,
    TraceStatus,
)

DEADLINE = 10.0
RESOURCES: NamedResources = {"prompt": PromptTemplate(template="{x}", engine="f-string")}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.retry.FIRST_PAUSE", 0.001)


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


def make(tracer: Tracer | None = None, **options: Any) -> LitAgentRunner[Any]:
    return LitAgentRunner[Any](tracer or OtelTracer(), **{"heartbeat_interval": 0, "max_outage": 0.1, **options})


async def step(
    store: InMemoryLightningStore, agent: LitAgent[Any], hooks: Sequence[Hook] = (), **options: Any
) -> Rollout:
    runner = make()
    with runner.run_context(agent=agent, store=store, hooks=hooks):
        async with asyncio.timeout(DEADLINE):
            return await runner.step("task", **options)


async def latest_attempt(store: InMemoryLightningStore) -> Attempt:
    (found,) = await store.query_rollouts()
    assert isinstance(found, AttemptedRollout)
    return found.attempt


def returning(result: Any) -> LitAgent[Any]:
    return rollout(lambda task: result() if callable(result) else result)


class Recorder(Hook):
    """Remembers the order of the calls and the spans."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.trace_spans: list[Span] = []
        self.spans: list[Span] = []

    async def on_rollout_start(self, **details: Any) -> None:
        self.calls.append("rollout_start")

    async def on_trace_start(self, **details: Any) -> None:
        self.calls.append("trace_start")

    async def on_trace_end(self, *, tracer: Tracer, **details: Any) -> None:
        self.calls.append("trace_end")
        self.trace_spans = tracer.get_last_trace()

    async def on_rollout_end(self, *, spans: Sequence[Span], **details: Any) -> None:
        self.calls.append("rollout_end")
        self.spans = list(spans)


PAIRED = ["rollout_start", "trace_start", "trace_end", "rollout_end"]


# -- what agents return ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracer", [OtelTracer, DummyTracer])
@pytest.mark.parametrize(
    "result", [0.5, Decimal("0.5"), np.float32(0.5), np.float64(0.5), {"a": 0.5}, {"b": 1, "primary": 0.5}]
)
async def test_numbers_become_the_final_reward(
    store: InMemoryLightningStore, tracer: Callable[[], Tracer], result: Any
) -> None:
    runner, recorder = make(tracer()), Recorder()
    with runner.run_context(agent=returning(result), store=store, hooks=[recorder]):
        completed = await runner.step("task")
    assert completed.status == "succeeded"
    spans = list(await store.query_spans(completed.rollout_id))
    assert find_final_reward(spans) == 0.5
    assert len(spans) == 1
    assert find_final_reward(recorder.spans) == find_final_reward(recorder.trace_spans) == 0.5


@pytest.mark.parametrize("result", [True, 1, np.int64(1)])
async def test_integers_and_booleans_are_rewards(store: InMemoryLightningStore, result: Any) -> None:
    completed = await step(store, returning(result))
    assert find_final_reward(await store.query_spans(completed.rollout_id)) == 1.0


async def test_all_dimensions_are_kept_and_the_first_is_primary(store: InMemoryLightningStore) -> None:
    completed = await step(store, returning({"x": 1.0, "y": 2.0}))
    (span,) = await store.query_spans(completed.rollout_id)
    assert [(item.name, item.value) for item in get_rewards_from_span(span)] == [("x", 1.0), ("y", 2.0)]


@pytest.mark.parametrize("result", [None, [], ()])
async def test_nothing_adds_nothing(store: InMemoryLightningStore, result: Any) -> None:
    completed = await step(store, returning(result))
    assert completed.status == "succeeded"
    assert len(await store.query_spans(completed.rollout_id)) == 0


def core(name: str) -> SpanCoreFields:
    return SpanCoreFields(name=name, status=TraceStatus(status_code="OK"), attributes={}, start_time=1.0, end_time=2.0)


def readable(name: str) -> Any:
    from opentelemetry.sdk.trace import TracerProvider

    span = TracerProvider(shutdown_on_exit=False).get_tracer("elsewhere").start_span(name)
    span.end()
    return span


@pytest.mark.parametrize("make_span", [core, readable, lambda name: Span.from_attributes(attributes={}, name=name)])
@pytest.mark.parametrize("kind", [list, tuple])
async def test_returned_spans_are_stored_in_order(
    store: InMemoryLightningStore, make_span: Callable[[str], Any], kind: Callable[[Any], Any]
) -> None:
    completed = await step(store, returning(kind([make_span("a"), make_span("b")])))
    spans = await store.query_spans(completed.rollout_id)
    assert [(span.name, span.sequence_id, span.rollout_id) for span in spans] == [
        ("a", 1, completed.rollout_id),
        ("b", 2, completed.rollout_id),
    ]


async def test_returned_spans_that_were_captured_are_not_stored_twice(store: InMemoryLightningStore) -> None:
    tracer = OtelTracer()

    async def agent(task: str) -> Any:
        with otel.get_tracer("a library").start_as_current_span("call") as span:
            emit_message("x")
        return [span] if task == "otel" else tracer.get_last_trace()

    runner = make(tracer)
    with runner.run_context(agent=rollout(agent), store=store):
        for task in ("otel", "own"):
            completed = await runner.step(task)
            assert len(await store.query_spans(completed.rollout_id)) == 2


@pytest.mark.parametrize(
    "result",
    [
        "0.5",
        {},
        {"a": "much"},
        object(),
        1j,
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        [1.0, 2.0],
        [core("a"), readable("b")],
    ],
)
async def test_meaningless_results_fail_the_attempt(store: InMemoryLightningStore, result: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        await step(store, returning(result))
    attempt = await latest_attempt(store)
    assert attempt.status == "failed"
    assert attempt.metadata == {"error": {"type": "InvalidResult", "message": str(caught.value)}}


async def test_spans_of_another_rollout_are_refused(store: InMemoryLightningStore) -> None:
    foreign = Span.from_attributes(attributes={}, rollout_id="ro-other")
    with pytest.raises(ValueError, match="ro-other"):
        await step(store, returning([foreign]))


# -- step --------------------------------------------------------------------------------------------------------------


async def test_a_step_returns_the_finished_rollout(store: InMemoryLightningStore) -> None:
    runner = make()
    with runner.run_context(agent=returning(1.0), store=store, worker_id=3):
        completed = await runner.step("task", resources=RESOURCES, mode="test")
    assert (completed.input, completed.mode, completed.status) == ("task", "test", "succeeded")
    latest = await store.get_latest_resources()
    assert latest is not None
    assert (completed.resources_id, latest.resources) == (latest.resources_id, RESOURCES)
    assert (await latest_attempt(store)).worker_id == "Worker-3"
    assert runner.get_worker_id() == "Worker-Unknown"


async def test_a_step_without_resources_takes_the_latest(store: InMemoryLightningStore) -> None:
    await store.add_resources(RESOURCES)
    completed = await step(store, rollout(lambda task, prompt_template: float(prompt_template.format(x="2"))))
    assert find_final_reward(await store.query_spans(completed.rollout_id)) == 2.0


@pytest.mark.parametrize(("mode", "expected"), [("train", 1.0), ("val", 2.0), ("test", 2.0), (None, 2.0)])
async def test_the_mode_chooses_the_path(store: InMemoryLightningStore, mode: Any, expected: float) -> None:
    class Agent(LitAgent[str]):
        def training_rollout(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
            return 1.0

        async def validation_rollout_async(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
            return 2.0

    completed = await step(store, Agent(), mode=mode)
    assert completed.mode == mode
    assert find_final_reward(await store.query_spans(completed.rollout_id)) == expected


async def test_an_unknown_mode_is_refused_before_anything_starts(store: InMemoryLightningStore) -> None:
    with pytest.raises(ValueError, match="did you mean val"):
        await step(store, returning(1.0), mode="validation")
    assert len(await store.query_rollouts()) == 0


async def test_proxies_are_resolved_for_class_agents_too(store: InMemoryLightningStore) -> None:
    seen: list[LLM] = []

    class Agent(LitAgent[str]):
        def rollout(self, task: str, resources: NamedResources, rollout: Rollout) -> None:
            seen.append(resources["m"])  # type: ignore[arg-type]

    class Raw(Agent):
        strip_proxy = False

    resources: NamedResources = {"m": ProxyLLM(endpoint="http://127.0.0.1:9/v1", model="m")}
    completed = await step(store, Agent(), resources=resources)
    await step(store, Raw(), resources=resources)
    assert seen[0].endpoint.startswith(f"http://127.0.0.1:9/rollout/{completed.rollout_id}/attempt/")
    assert seen[1] == resources["m"]


@pytest.mark.parametrize(("result", "status"), [(1.0, "succeeded"), (lambda: 1 / 0, "failed")])
@pytest.mark.parametrize("answer", [200, 507, None])
async def test_an_attempt_says_why_the_store_may_lack_its_model_calls(
    store: InMemoryLightningStore, answer: int | None, result: Any, status: str
) -> None:
    async def flush(_: Request) -> Response:
        return PlainTextResponse("3 calls are lost", answer or 200)

    gateway = EmbeddedServer(Starlette(routes=[Route("/{path:path}", flush, methods=["POST"])]))
    await gateway.start()
    url = gateway.url
    if answer is None:
        await gateway.stop()  # nobody answers
    resources: NamedResources = {"m": ProxyLLM(endpoint=f"{url}/v1", model="m")}
    with contextlib.suppress(ZeroDivisionError):
        await step(store, returning(result), resources=resources)
    await gateway.stop()
    attempt = await latest_attempt(store)
    missing = (attempt.metadata or {}).get("missing_calls", [])
    assert attempt.status == status
    assert ("error" in (attempt.metadata or {})) == (status == "failed")
    assert len(missing) == (answer != 200)
    assert all(("3 calls are lost" in reason) == (answer == 507) for reason in missing)


async def test_a_sync_agent_runs_off_the_loop_and_inside_the_trace(store: InMemoryLightningStore) -> None:
    def agent(task: str) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert get_active_tracer() is not None
        thread = threading.Thread(target=emit_message, args=("from a thread",))
        thread.start()
        thread.join()

    completed = await step(store, rollout(agent))
    assert [get_message_value(span) for span in await store.query_spans(completed.rollout_id)] == ["from a thread"]


async def test_two_blocking_agents_run_at_the_same_time(store: InMemoryLightningStore) -> None:
    barrier = threading.Barrier(2, timeout=DEADLINE)
    runner = make()
    with runner.run_context(agent=rollout(lambda task: float(barrier.wait() >= 0)), store=store):
        first, second = await asyncio.gather(runner.step(1), runner.step(2))
    assert {first.status, second.status} == {"succeeded"}
    for completed in (first, second):
        assert len(await store.query_spans(completed.rollout_id)) == 1


async def test_a_sync_agent_may_return_an_awaitable(store: InMemoryLightningStore) -> None:
    async def later() -> float:
        return 0.25

    completed = await step(store, rollout(lambda task: later()))
    assert find_final_reward(await store.query_spans(completed.rollout_id)) == 0.25


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("x"), StopIteration()])
async def test_a_failure_reaches_the_caller_and_is_recorded(store: InMemoryLightningStore, error: Exception) -> None:
    def agent(task: str) -> None:
        emit_reward(0.5)
        raise error

    recorder = Recorder()
    with pytest.raises((KeyError, RuntimeError)) as caught:
        await step(store, rollout(agent), hooks=[recorder])
    assert caught.value is error or caught.value.__cause__ is error
    attempt = await latest_attempt(store)
    assert attempt.status == "failed"
    assert (attempt.metadata or {})["error"]["type"] == type(caught.value).__name__
    assert recorder.calls == PAIRED
    names = ["agentlightning.annotation", "agentlightning.exception"]
    assert [span.name for span in recorder.spans] == [span.name for span in recorder.trace_spans] == names
    assert [span.name for span in await store.query_spans(attempt.rollout_id)] == names


class Unspeakable(Exception):
    """An exception that cannot say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def circular() -> Exception:
    error = ValueError("around")
    error.__cause__ = error
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("cannot read 'caf\udce9.txt'"), r"cannot read 'caf\udce9.txt'"),
        (Unspeakable(), "<Unspeakable whose str() raises RuntimeError>"),
        (circular(), "around"),
    ],
)
async def test_a_failure_is_recorded_whatever_its_text(
    store: InMemoryLightningStore, error: Exception, message: str
) -> None:
    async def agent(task: str) -> None:
        raise error

    resources: NamedResources = {"m": LLM(endpoint="http://127.0.0.1:9/v1", model="m")}
    with pytest.raises(type(error)) as caught:
        await step(store, rollout(agent), resources=resources)
    assert caught.value is error
    attempt = await latest_attempt(store)
    assert attempt.status == "failed"
    assert (attempt.metadata or {})["error"] == {"type": type(error).__name__, "message": message}
    (span,) = await store.query_spans(attempt.rollout_id)
    assert span.attributes["exception.message"] == message


async def test_a_description_that_the_store_refuses_leaves_the_status(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.runner.verdict.describe_failure", lambda *_: {"message": object()})
    with pytest.raises(KeyError):
        await step(store, returning(lambda: {}["x"]))
    attempt = await latest_attempt(store)
    assert attempt.status == "failed"
    assert (attempt.metadata or {})["error"]["type"] == "KeyError"


async def test_missing_resources_fail_the_attempt_with_a_reason(store: InMemoryLightningStore) -> None:
    recorder = Recorder()
    with pytest.raises(MissingResource, match="add_resources"):
        await step(store, rollout(lambda task, llm: None), hooks=[recorder])
    attempt = await latest_attempt(store)
    assert attempt.status == "failed"
    assert (attempt.metadata or {})["error"]["type"] == "MissingResource"
    assert recorder.calls == PAIRED


async def test_an_unknown_resources_id_fails_the_attempt(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgotten(resources_id: str) -> None:
        return None

    monkeypatch.setattr(store, "get_resources_by_id", forgotten)
    with pytest.raises(MissingResource, match="does not have"):
        await step(store, returning(1.0), resources=RESOURCES)
    assert (await latest_attempt(store)).status == "failed"


async def test_a_failing_hook_changes_nothing(store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Hook):
        async def on_rollout_start(self, **details: Any) -> None:
            raise KeyError("start")

        async def on_rollout_end(self, **details: Any) -> None:
            raise KeyError("end")

    recorder = Recorder()
    completed = await step(store, returning(1.0), hooks=[Failing(), recorder])
    assert completed.status == "succeeded"
    assert recorder.calls == PAIRED
    assert "on_rollout_end of Failing failed" in caplog.text


# -- interruptions -----------------------------------------------------------------------------------------------------


async def forever(task: str) -> None:
    await asyncio.Event().wait()


async def stubborn(task: str) -> float:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    return 1.0


def blocking(task: str) -> None:
    threading.Event().wait(DEADLINE)


@pytest.mark.parametrize("agent", [forever, stubborn, blocking])
async def test_a_cancelled_step_is_never_recorded_as_succeeded(store: InMemoryLightningStore, agent: Any) -> None:
    recorder = Recorder()
    started = asyncio.Event()

    class Started(Recorder):
        async def on_trace_start(self, **details: Any) -> None:
            asyncio.get_running_loop().call_later(0.01, started.set)

    task = asyncio.create_task(step(store, rollout(agent), hooks=[recorder, Started()]))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    attempt = await latest_attempt(store)
    assert attempt.status == "failed"
    assert (attempt.metadata or {})["error"]["type"] == "CancelledError"
    assert recorder.calls == PAIRED


async def test_a_step_cancelled_while_it_starts_leaves_no_open_attempt(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, starting = store.start_rollout, asyncio.Event()

    async def start_and_tell(**options: Any) -> AttemptedRollout:
        starting.set()
        return await start(**options)

    monkeypatch.setattr(store, "start_rollout", start_and_tell)
    ran: list[str] = []
    recorder = Recorder()
    task = asyncio.create_task(step(store, rollout(lambda task: ran.append(task)), hooks=[recorder]))
    await starting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await latest_attempt(store)).status == "failed"
    assert ran == []
    assert recorder.calls == PAIRED


@pytest.mark.parametrize("with_event", [False, True])
@pytest.mark.parametrize("turns", range(25))
async def test_a_runner_cancelled_while_it_claims_leaves_no_open_attempt(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch, with_event: bool, turns: int
) -> None:
    """In whatever turn of the loop it is cancelled: before, while and after the store answers the wait for work."""
    dequeue, waiting = store.dequeue_many_rollouts, asyncio.Event()

    async def dequeue_and_tell(*, wait: float = 0.0, **options: Any) -> Sequence[AttemptedRollout]:
        if wait:
            waiting.set()
        return await dequeue(wait=wait, **options)

    monkeypatch.setattr(store, "dequeue_many_rollouts", dequeue_and_tell)
    runner = make(DummyTracer())
    with runner.run_context(agent=rollout(forever), store=store):
        task = asyncio.create_task(runner.iter(event=ThreadingEvent() if with_event else None))
        await waiting.wait()
        await store.query_rollouts()  # behind the look for work, which has found nothing then
        await store.enqueue_rollout(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(DEADLINE):  # the store takes a claim back behind the cancelled caller
        while (found := (await store.query_rollouts())[0]).status not in ("queuing", "failed"):
            pass
    assert len(await store.query_attempts(found.rollout_id)) == (found.status == "failed")


@pytest.mark.parametrize("make_event", [ThreadingEvent, threading.Event])
async def test_the_event_takes_no_claim_with_it(store: InMemoryLightningStore, make_event: Callable[[], Any]) -> None:
    runner, count = make(DummyTracer()), 30
    with runner.run_context(agent=returning(1.0), store=store):
        for turns in range(count):
            event = make_event()
            task = asyncio.create_task(runner.iter(event=event))
            await store.enqueue_rollout(turns)
            for _ in range(turns):
                await asyncio.sleep(0)
            event.set()
            await task
    async with asyncio.timeout(DEADLINE):
        while len(await store.query_rollouts(status_in=["succeeded", "queuing"])) < count:
            pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_step_is_recorded_as_failed(error: type[BaseException]) -> None:
    async def agent(task: str) -> None:
        raise error

    store = InMemoryLightningStore()
    loop = asyncio.new_event_loop()
    with pytest.raises(error):
        loop.run_until_complete(step(store, rollout(agent)))
    assert loop.run_until_complete(latest_attempt(store)).status == "failed"
    loop.run_until_complete(store.close())
    loop.close()


@pytest.mark.parametrize("make_event", [ThreadingEvent, MultiprocessingEvent])
@pytest.mark.parametrize("agent", [forever, stubborn])
async def test_the_event_cancels_a_step(store: InMemoryLightningStore, agent: Any, make_event: Any) -> None:
    event = make_event()

    class SetEvent(Hook):
        async def on_trace_start(self, **details: Any) -> None:
            asyncio.get_running_loop().call_later(0.01, event.set)

    with pytest.raises(RolloutCancelled):
        await step(store, rollout(agent), hooks=[SetEvent()], event=event)
    assert (await latest_attempt(store)).status == "failed"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


class Hanging(Hook):
    """Hangs in one of its methods until it is cancelled."""

    def __init__(self, where: str) -> None:
        self.hanging = asyncio.Event()

        async def hang(**details: Any) -> None:
            self.hanging.set()
            await asyncio.Event().wait()

        setattr(self, where, hang)


@pytest.mark.parametrize("where", ["on_rollout_start", "on_trace_start"])
async def test_the_event_interrupts_hooks_too(store: InMemoryLightningStore, where: str) -> None:
    hook, event = Hanging(where), ThreadingEvent()
    task = asyncio.create_task(step(store, returning(1.0), hooks=[hook], event=event))
    await hook.hanging.wait()
    event.set()
    with pytest.raises(RolloutCancelled):
        await task
    assert (await latest_attempt(store)).status == "failed"


@pytest.mark.parametrize("where", ["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"])
async def test_a_hook_that_goes_on_when_it_is_cancelled_is_given_up(
    store: InMemoryLightningStore, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentlightning.runner.hooks.END_DEADLINE", 0.01)
    hook, event = Hook(), ThreadingEvent()

    async def hang(**details: Any) -> None:
        event.set()
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    setattr(hook, where, hang)
    await store.enqueue_rollout("task")
    runner = make(max_rollouts=1, stop_grace=0.01 if where.endswith("start") else DEADLINE, cancel_grace=0.01)
    with runner.run_context(agent=returning(1.0), store=store, hooks=[hook]):
        async with asyncio.timeout(DEADLINE):
            await runner.iter(event=event)
    assert f"{where} of Hook does not end when it is cancelled" in caplog.text
    assert (await latest_attempt(store)).status == ("failed" if where.endswith("start") else "succeeded")


@pytest.mark.parametrize("where", ["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"])
async def test_a_hook_that_cancels_itself_has_failed_and_nothing_else_has(
    store: InMemoryLightningStore, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Hook()

    async def cancel(**details: Any) -> None:
        raise asyncio.CancelledError("my own")

    setattr(hook, where, cancel)
    assert (await step(store, returning(1.0), hooks=[hook])).status == "succeeded"
    assert f"{where} of Hook failed" in caplog.text


async def test_an_agent_sees_what_a_hook_has_set(store: InMemoryLightningStore) -> None:
    variable, hook = contextvars.ContextVar("variable", default=0.0), Hook()

    async def set_variable(**details: Any) -> None:
        variable.set(1.0)

    hook.on_trace_start = set_variable
    await step(store, rollout(lambda task: variable.get()), hooks=[hook])
    assert find_final_reward(await store.query_spans((await latest_attempt(store)).rollout_id)) == 1.0


async def test_a_summary_tells_of_the_last_reward(
    store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    def agent(task: str) -> None:
        emit_reward(1.0)
        emit_reward(0.5)
        for _ in range(50):
            emit_message("text")

    caplog.set_level(logging.INFO)
    await step(store, rollout(agent))
    assert "52 spans, final reward 0.5" in caplog.text


async def test_the_event_interrupts_a_hung_read_of_resources(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = ThreadingEvent()

    async def hang() -> None:
        event.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(store, "get_latest_resources", hang)
    with pytest.raises(RolloutCancelled):
        await step(store, returning(1.0), event=event)
    assert (await latest_attempt(store)).status == "failed"


async def test_a_trace_that_is_cancelled_while_it_starts_is_ended(store: InMemoryLightningStore) -> None:
    recorder, hook = Recorder(), Hanging("on_trace_start")
    task = asyncio.create_task(step(store, returning(1.0), hooks=[recorder, hook]))
    await hook.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.calls == PAIRED
    assert [span.name for span in recorder.spans] == ["agentlightning.exception"]


async def test_a_trace_that_is_cancelled_while_its_spans_are_written_is_ended(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, writing, go_on = store.add_many_spans, asyncio.Event(), asyncio.Event()

    async def slow_write(spans: Sequence[Span]) -> Sequence[Span]:
        writing.set()
        await go_on.wait()
        return await write(spans)

    monkeypatch.setattr(store, "add_many_spans", slow_write)
    recorder = Recorder()
    task = asyncio.create_task(step(store, returning(1.0), hooks=[recorder]))
    await writing.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.calls == PAIRED
    assert (await latest_attempt(store)).status == "failed"


@pytest.mark.parametrize("committed", [False, True])
async def test_a_step_cancelled_while_its_success_is_written_has_failed_unless_that_is_committed(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    update, writing = store.update_attempt, asyncio.Event()

    async def hang_at_success(*args: Any, **changes: Any) -> Attempt:
        if changes["status"] == "succeeded":
            if committed:
                await update(*args, **changes)
            writing.set()
            await asyncio.Event().wait()
        return await update(*args, **changes)

    monkeypatch.setattr(store, "update_attempt", hang_at_success)
    task = asyncio.create_task(step(store, returning(1.0)))
    await writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await latest_attempt(store)).status == ("succeeded" if committed else "failed")


async def test_an_event_that_is_set_or_never_set(store: InMemoryLightningStore) -> None:
    event = ThreadingEvent()
    completed = await step(store, returning(1.0), event=event)
    assert completed.status == "succeeded"
    event.set()
    ran: list[str] = []
    recorder = Recorder()
    with pytest.raises(RolloutCancelled):
        await step(store, rollout(lambda task: ran.append(task)), hooks=[recorder], event=event)
    assert ran == []
    assert recorder.calls in (PAIRED, [PAIRED[0], PAIRED[-1]])  # it may be stopped before there is a trace


async def test_the_status_is_written_even_if_the_store_is_slow_and_the_step_cancelled_again(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, writing, go_on = store.update_attempt, asyncio.Event(), asyncio.Event()

    async def slow_update(*args: Any, **changes: Any) -> Attempt:
        writing.set()
        await go_on.wait()
        return await update(*args, **changes)

    monkeypatch.setattr(store, "update_attempt", slow_update)
    started = asyncio.Event()

    async def agent(task: str) -> None:
        started.set()
        await forever(task)

    task = asyncio.create_task(step(store, rollout(agent)))
    await started.wait()
    task.cancel()
    await writing.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await latest_attempt(store)).status == "failed"


# -- the store ---------------------------------------------------------------------------------------------------------


async def test_a_slow_store_does_not_stall_the_agent(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, writing, go_on = store.add_many_spans, asyncio.Event(), asyncio.Event()

    async def slow_write(spans: Sequence[Span]) -> Sequence[Span]:
        writing.set()
        await go_on.wait()
        return await write(spans)

    monkeypatch.setattr(store, "add_many_spans", slow_write)

    async def agent(task: str) -> float:
        emit_message("first")
        await writing.wait()
        emit_message("while the store hangs")
        go_on.set()
        return 1.0

    completed = await step(store, rollout(agent))
    assert len(await store.query_spans(completed.rollout_id)) == 3


async def test_spans_that_cannot_be_written_fail_the_attempt(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(spans: Sequence[Span]) -> Sequence[Span]:
        raise StoreError("disk full")

    monkeypatch.setattr(store, "add_many_spans", broken)
    with pytest.raises(StoreError, match="disk full"):
        await step(store, returning(1.0))
    assert (await latest_attempt(store)).status == "failed"


async def test_a_status_is_written_again_after_a_passing_failure(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, failures = store.update_attempt, [StoreError("busy"), ConnectionError("reset")]

    async def flaky_update(*args: Any, **changes: Any) -> Attempt:
        if failures:
            raise failures.pop()
        return await update(*args, **changes)

    monkeypatch.setattr(store, "update_attempt", flaky_update)
    assert (await step(store, returning(1.0))).status == "succeeded"


async def test_a_lost_lease_is_told_and_overwrites_nothing(store: InMemoryLightningStore) -> None:
    async def agent(task: str, rollout: AttemptedRollout) -> float:
        await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="timeout")
        with pytest.raises(LeaseLost):
            await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
        return 1.0

    with pytest.raises(RolloutCancelled, match="ended in the store"):
        await step(store, rollout(agent))
    assert (await latest_attempt(store)).status == "timeout"


async def test_a_failure_is_raised_also_where_the_lease_is_lost(
    store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(task: str, rollout: AttemptedRollout) -> None:
        await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="timeout")
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        await step(store, rollout(agent))
    assert (await latest_attempt(store)).status == "timeout"
    assert "had ended already" in caplog.text


async def test_an_empty_dict_is_told_what_to_do(store: InMemoryLightningStore) -> None:
    with pytest.raises(InvalidResult, match="empty dict: return None for no reward"):
        await step(store, rollout(lambda task: dict[str, float]()))


# -- iter --------------------------------------------------------------------------------------------------------------


async def test_iter_runs_the_queue_in_order_up_to_the_limit(store: InMemoryLightningStore) -> None:
    for task in range(3):
        await store.enqueue_rollout(task)
    seen: list[int] = []
    runner = make(max_rollouts=2)
    with runner.run_context(agent=rollout(lambda task: seen.append(task)), store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    assert seen == [0, 1]
    assert len(await store.query_rollouts(status_in=["queuing"])) == 1


class Quit(BaseException):
    """What pytest.skip raises, for one, is no Exception."""


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("error", [Quit("enough"), GeneratorExit("over")])
async def test_what_ends_programs_ends_only_the_attempt_that_raised_it(
    store: InMemoryLightningStore, error: BaseException, is_async: bool
) -> None:
    failed = asyncio.Event()

    async def agent(task: str) -> float:
        if task == "fails":
            failed.set()
            raise error
        await failed.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        return 1.0

    def sync_agent(task: str) -> Any:
        if task == "fails":
            loop.call_soon_threadsafe(failed.set)
            raise error
        return agent(task)

    loop = asyncio.get_running_loop()
    tasks = ["waits", "fails", "waits"]
    for task in tasks:
        await store.enqueue_rollout(task)
    runner = make(max_rollouts=3, max_concurrency=2)
    with runner.run_context(agent=rollout(agent if is_async else sync_agent), store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    ended = {item.status: item.input for item in await store.query_rollouts()}
    assert ended == {"succeeded": "waits", "failed": "fails"}


async def test_a_huge_message_does_not_keep_an_attempt_from_ending(store: InMemoryLightningStore) -> None:
    def agent(task: str) -> None:
        raise ValueError(f"begin {'x' * 10_000_000} end")

    with pytest.raises(ValueError, match="begin"):
        await step(store, rollout(agent))
    attempt = await latest_attempt(store)
    message = (attempt.metadata or {})["error"]["message"]
    assert message.startswith("begin xxx")
    assert message.endswith("xxx end")
    assert "characters left out" in message
    (span,) = await store.query_spans(attempt.rollout_id)
    assert sum(len(str(value)) for value in span.attributes.values()) < 50_000


async def test_a_failure_that_is_too_large_for_the_store_is_written_without_words(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = store.update_attempt

    async def update_little(*args: Any, **changes: Any) -> Any:
        if "message" in changes.get("metadata", {}).get("error", {}):
            raise TooLarge("more than this store takes")
        return await update(*args, **changes)

    monkeypatch.setattr(store, "update_attempt", update_little)
    with pytest.raises(ZeroDivisionError):
        await step(store, rollout(lambda task: 1 / 0))
    attempt = await latest_attempt(store)
    assert (attempt.status, attempt.metadata) == ("failed", {"error": {"type": "ZeroDivisionError"}})


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3)])
async def test_iter_goes_on_after_failures(store: InMemoryLightningStore, error: BaseException) -> None:
    both_run = asyncio.Event()

    async def agent(task: int) -> float:
        if task == 0:
            await both_run.wait()
            raise error
        both_run.set()
        return 1.0

    for task in range(2):
        await store.enqueue_rollout(task)
    runner = make(max_rollouts=2, max_concurrency=2)
    with runner.run_context(agent=rollout(agent), store=store):
        await runner.iter()
    assert [item.status for item in await store.query_rollouts(sort_by="start_time")] == ["failed", "succeeded"]


async def test_iter_runs_many_at_once_and_keeps_their_spans_apart(store: InMemoryLightningStore) -> None:
    count, together = 200, asyncio.Event()
    running = 0

    async def agent(task: int) -> float:
        nonlocal running
        running += 1
        if running == count:
            together.set()
        await together.wait()
        await asyncio.to_thread(emit_message, str(task))
        return float(task)

    for task in range(count):
        await store.enqueue_rollout(task)
    runner = make(max_rollouts=count, max_concurrency=count)
    with runner.run_context(agent=rollout(agent), store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    for completed in await store.query_rollouts():
        message, reward = await store.query_spans(completed.rollout_id)
        assert get_message_value(message) == str(completed.input)
        assert find_final_reward([reward]) == completed.input


@pytest.mark.parametrize("make_event", [ThreadingEvent, MultiprocessingEvent])
async def test_the_event_ends_an_idle_iter(store: InMemoryLightningStore, make_event: Any) -> None:
    event, runner = make_event(), make(poll_interval=1000.0)
    with runner.run_context(agent=returning(1.0), store=store):
        task = asyncio.create_task(runner.iter(event=event))
        queued = await store.enqueue_rollout(0)
        assert await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=DEADLINE)
        event.set()
        async with asyncio.timeout(DEADLINE):
            await task


async def test_the_event_lets_a_running_rollout_finish(store: InMemoryLightningStore) -> None:
    event = ThreadingEvent()
    for task in range(2):
        await store.enqueue_rollout(task)

    async def agent(task: int) -> float:
        event.set()
        await asyncio.sleep(0)
        return 1.0

    runner = make()
    with runner.run_context(agent=rollout(agent), store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter(event=event)
    statuses = [item.status for item in await store.query_rollouts(sort_by="start_time")]
    assert statuses == ["succeeded", "queuing"]


async def test_a_cancelled_iter_records_its_rollouts_as_failed(store: InMemoryLightningStore) -> None:
    started = asyncio.Event()

    async def agent(task: int) -> None:
        started.set()
        await asyncio.Event().wait()

    await store.enqueue_rollout(0)
    runner = make()
    with runner.run_context(agent=rollout(agent), store=store):
        task = asyncio.create_task(runner.iter())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await latest_attempt(store)).status == "failed"


async def test_claiming_is_tried_again_and_then_given_up(
    store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    dequeue, failures = store.dequeue_many_rollouts, 2

    async def flaky(**options: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreError("not now")
        return await dequeue(**options)

    monkeypatch.setattr(store, "dequeue_many_rollouts", flaky)
    await store.enqueue_rollout(0)
    runner = make(max_rollouts=1, max_outage=0.05)
    with runner.run_context(agent=returning(1.0), store=store):
        await runner.iter()
        assert (await latest_attempt(store)).status == "succeeded"
        failures = 1000
        with pytest.raises(StoreError, match="not now"):
            await runner.iter()


# -- the runner itself -------------------------------------------------------------------------------------------------


async def test_run_context_is_symmetric(store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    class Telling(DummyTracer):
        def init(self, *args: Any, **kwargs: Any) -> None:
            calls.append("init")

        def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
            calls.append("teardown_worker")
            raise KeyError("cleaning up")

        def teardown(self, *args: Any, **kwargs: Any) -> None:
            calls.append("teardown")

    runner, agent = make(Telling()), returning(1.0)

    def fail() -> None:
        with runner.run_context(agent=agent, store=store):
            assert agent.get_runner() is runner
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert calls == ["init", "teardown_worker", "teardown"]
    assert "Tearing the runner down failed" in caplog.text
    for getter in (runner.get_agent, runner.get_store):
        with pytest.raises(ValueError, match="run_context"):
            getter()
    with pytest.raises(RuntimeError, match="step"):
        runner.run()


@pytest.mark.parametrize("tracer", [OtelTracer, DummyTracer])
async def test_runners_that_share_tracer_and_agent_come_and_go_without_each_other(
    store: InMemoryLightningStore, tracer: Callable[[], Tracer]
) -> None:
    seen: list[Any] = []

    def in_thread() -> None:
        seen.append(agent.get_runner())

    async def look(task: str) -> float:
        seen.extend([agent.get_runner(), agent.tracer])
        await asyncio.to_thread(in_thread)
        return 1.0

    agent, shared, other = rollout(look), tracer(), InMemoryLightningStore()
    first, second = make(shared), make(shared)
    with first.run_context(agent=agent, store=store):
        with second.run_context(agent=agent, store=other, worker_id=1):
            both = await asyncio.gather(first.step(1), second.step(2))
        both.append(await first.step(3))
    assert {item.status for item in both} == {"succeeded"}
    assert set(seen) == {first, second, shared}
    assert seen[-3:] == [first, shared, first]
    for where, done in ((store, both[0]), (other, both[1]), (store, both[2])):
        assert find_final_reward(await where.query_spans(done.rollout_id)) == 1.0
    await other.close()


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrency": 0},
        {"poll_interval": 0},
        {"heartbeat_launch_mode": "x"},
        {"isolation": "x"},
        {"stop_grace": -1},
        {"cancel_grace": -1},
        {"max_outage": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        make(**options)
