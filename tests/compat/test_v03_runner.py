"""Facts of v0.3's runner that programs rely on; docs/compat.md lists them."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from agentlightning.emitter import emit_annotation, emit_reward, get_rewards_from_span
from agentlightning.litagent import LitAgent, rollout
from agentlightning.runner import LitAgentRunner, Runner
from agentlightning.runner.snapshot import system_snapshot
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import DummyTracer, OtelTracer, get_active_tracer
from agentlightning.types import Hook, NamedResources, PromptTemplate, Rollout, RolloutRawResult
from tests.compat.signatures import takes

DEADLINE = 10.0


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


def make(tracer: Any = None, **options: Any) -> LitAgentRunner[Any]:
    return LitAgentRunner[Any](tracer or OtelTracer(), **{"heartbeat_interval": 0, **options})


async def step(
    store: InMemoryLightningStore, agent: LitAgent[Any], hooks: Sequence[Hook] = (), **options: Any
) -> Rollout:
    runner = make()
    with runner.run_context(agent=agent, store=store, hooks=hooks):
        async with asyncio.timeout(DEADLINE):
            return await runner.step("task", **options)


async def test_the_base_runner_leaves_everything_to_subclasses(store: InMemoryLightningStore) -> None:
    runner, agent = Runner[Any](), rollout(lambda task: None)
    for call in (
        lambda: runner.init(agent),
        lambda: runner.init_worker(0, store),
        lambda: runner.teardown_worker(0),
        lambda: runner.teardown(),
    ):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(NotImplementedError):
        await runner.iter()
    with pytest.raises(NotImplementedError):
        await runner.step("task")
    with pytest.raises(RuntimeError, match="iter"):
        runner.run()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (Runner.iter, "event=None"),
        (Runner.step, "input, resources=None, mode=None, event=None"),
        (Runner.run_context, "agent, store, hooks=None, worker_id=None"),
        (LitAgentRunner.init, "agent, hooks=None"),
        (LitAgentRunner.init_worker, "worker_id, store"),
        (
            LitAgentRunner,
            "tracer, max_rollouts=None, poll_interval=5.0, heartbeat_interval=10.0, interval_jitter=0.5, "
            "heartbeat_launch_mode=asyncio, heartbeat_include_gpu=False",
        ),
        (Hook.on_rollout_start, "agent, runner, rollout"),
        (Hook.on_trace_start, "agent, runner, tracer, rollout"),
        (Hook.on_trace_end, "agent, runner, tracer, rollout"),
        (Hook.on_rollout_end, "agent, runner, rollout, spans"),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_signatures_are_those_of_v03(function: Any, expected: str) -> None:
    assert takes(function, expected)


def test_what_a_runner_has_before_it_is_set_up() -> None:
    tracer = DummyTracer()
    runner = make(tracer)
    assert runner.tracer is tracer
    with pytest.raises(AttributeError):
        runner.tracer = tracer  # type: ignore[misc]
    with pytest.raises(ValueError):
        runner.get_agent()
    with pytest.raises(ValueError):
        runner.get_store()
    assert runner.get_worker_id() == "Worker-Unknown"


class Lifecycle(DummyTracer):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append("init")

    def init_worker(self, worker_id: int, store: Any = None, *args: Any, **kwargs: Any) -> None:
        super().init_worker(worker_id, store)
        self.calls.append(("init_worker", worker_id, store))

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        super().teardown_worker(worker_id)
        self.calls.append(("teardown_worker", worker_id))

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append("teardown")


async def test_the_lifecycle_reaches_the_tracer_in_order(store: InMemoryLightningStore) -> None:
    tracer, agent = Lifecycle(), rollout(lambda task: None)
    runner = make(tracer)
    runner.init(agent, hooks=[])
    assert tracer.calls == ["init"]
    assert runner.get_agent() is agent
    assert agent.runner is runner
    runner.init_worker(4, store)
    assert tracer.calls[1:] == [("init_worker", 4, store)]
    assert (runner.get_store(), runner.get_worker_id()) == (store, "Worker-4")
    runner.teardown_worker(4)
    runner.teardown()
    assert tracer.calls[2:] == [("teardown_worker", 4), "teardown"]
    assert runner.get_worker_id() == "Worker-Unknown"
    with pytest.raises(ValueError):
        runner.get_agent()
    with pytest.raises(ValueError):
        runner.get_store()


async def test_what_was_not_set_up_is_not_torn_down(store: InMemoryLightningStore) -> None:
    class Broken(Lifecycle):
        broken = "init"

        def init(self, *args: Any, **kwargs: Any) -> None:
            super().init(*args, **kwargs)
            if self.broken == "init":
                raise KeyError("setting up")

        def init_worker(self, worker_id: int, store: Any = None, *args: Any, **kwargs: Any) -> None:
            raise KeyError("setting up")

    tracer = Broken()
    for broken, calls in (("init", ["init"]), ("init_worker", ["init", "teardown"])):
        tracer.broken, tracer.calls = broken, []
        with pytest.raises(KeyError), make(tracer).run_context(agent=rollout(lambda task: None), store=store):
            raise AssertionError("the block is not entered")
        assert tracer.calls == calls


class Watcher(Hook):
    """Remembers each call with its arguments, whether a trace was open, and the attempt's status in the store."""

    def __init__(self, store: InMemoryLightningStore, log: list[Any] | None = None) -> None:
        self.store = store
        self.calls: dict[str, dict[str, Any]] = {}
        self.log: list[Any] = log if log is not None else []

    def init(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("a runner sets up no hook")

    init_worker = teardown_worker = teardown = init

    async def remember(self, name: str, details: dict[str, Any]) -> None:
        details["traced"] = get_active_tracer() is not None
        attempt = await self.store.get_latest_attempt(details["rollout"].rollout_id)
        details["status"] = attempt.status if attempt else None
        self.calls[name] = details
        self.log.append((name, self))

    async def on_rollout_start(self, **details: Any) -> None:
        await self.remember("rollout_start", details)

    async def on_trace_start(self, **details: Any) -> None:
        await self.remember("trace_start", details)

    async def on_trace_end(self, **details: Any) -> None:
        await self.remember("trace_end", details)

    async def on_rollout_end(self, **details: Any) -> None:
        await self.remember("rollout_end", details)


async def test_hooks_get_their_arguments_where_they_belong(store: InMemoryLightningStore) -> None:
    agent, hook = rollout(lambda task: 1.0), Watcher(store)
    runner = make()
    with runner.run_context(agent=agent, store=store, hooks=[hook]):
        completed = await runner.step("task")
    assert list(hook.calls) == ["rollout_start", "trace_start", "trace_end", "rollout_end"]
    for name, details in hook.calls.items():
        assert details["agent"] is agent
        assert details["runner"] is runner
        assert details["rollout"].rollout_id == completed.rollout_id
        assert details["rollout"].attempt.status == "preparing", "as it was at the start"
        assert details["status"] not in ("succeeded", "failed"), "the status is written after the hooks"
        assert details["traced"] == (name in ("trace_start", "trace_end"))
        assert details.get("tracer") is (runner.tracer if "trace_" in name else None)
    assert [span.name for span in hook.calls["rollout_end"]["spans"]] == ["agentlightning.annotation"]


async def test_hooks_run_in_order_and_each_one_runs(
    store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Watcher):
        async def on_rollout_start(self, **details: Any) -> None:
            await super().on_rollout_start(**details)
            raise RuntimeError("of a hook")

    log: list[Any] = []
    hooks = [Failing(store, log), Watcher(store, log)]
    with caplog.at_level(logging.ERROR):
        completed = await step(store, rollout(lambda task: None), hooks)
    assert completed.status == "succeeded"
    assert [hook for name, hook in log if name == "rollout_start"] == hooks
    assert "of a hook" in caplog.text


async def test_hooks_are_told_of_rollouts_only(store: InMemoryLightningStore) -> None:
    hook = Watcher(store)  # whose `init`, `init_worker`, `teardown` and `teardown_worker` raise
    await step(store, rollout(lambda task: None), [hook])
    assert hook.calls


async def test_the_trace_carries_the_ids_of_the_attempt(store: InMemoryLightningStore) -> None:
    names: list[str | None] = []

    class Named(OtelTracer):
        def trace_context(self, name: str | None = None, **ids: Any) -> Any:
            names.append(name)
            return super().trace_context(name, **ids)

    runner = make(Named())
    with runner.run_context(agent=rollout(lambda task: 1.0), store=store):
        completed = await runner.step("task")
    attempt = await store.get_latest_attempt(completed.rollout_id)
    assert attempt is not None
    (span,) = await store.query_spans(completed.rollout_id)
    assert (span.rollout_id, span.attempt_id) == (completed.rollout_id, attempt.attempt_id)
    assert names == [completed.rollout_id]


async def test_class_agents_are_called_with_v03s_arguments(store: InMemoryLightningStore) -> None:
    seen: list[Any] = []

    class Agent(LitAgent[Any]):
        def rollout(self, task: Any, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
            seen.extend([task, resources, rollout])
            return None

    resources: NamedResources = {"prompt": PromptTemplate(template="{x}", engine="f-string")}
    completed = await step(store, Agent(), resources=resources)
    attempt = await store.get_latest_attempt(completed.rollout_id)
    assert attempt is not None
    assert seen[:2] == ["task", resources]
    assert (seen[2].rollout_id, seen[2].attempt.attempt_id) == (completed.rollout_id, attempt.attempt_id)


async def test_a_malformed_reward_attribute_fails_nothing(store: InMemoryLightningStore) -> None:
    @rollout
    def agent(task: str) -> None:
        emit_annotation({"agentlightning.reward": 1.0})
        emit_annotation({"agentlightning.reward.0.value": "much"})

    assert (await step(store, agent)).status == "succeeded"


async def test_a_reward_that_was_only_built_can_be_returned(store: InMemoryLightningStore) -> None:
    @rollout
    def agent(task: str) -> Any:
        return [emit_reward({"a": 1.0, "b": 2.0}, primary_key="b", propagate=False)]

    completed = await step(store, agent)
    (span,) = await store.query_spans(completed.rollout_id)
    assert [(item.name, item.value) for item in get_rewards_from_span(span)] == [("b", 2.0), ("a", 1.0)]


async def test_an_empty_list_succeeds_with_a_warning(
    store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    completed = await step(store, rollout(lambda task: []))
    assert completed.status == "succeeded"
    assert "empty list" in caplog.text


async def test_new_work_is_run_without_waiting_for_the_poll_interval(store: InMemoryLightningStore) -> None:
    runner = make(poll_interval=3600.0, max_rollouts=1)
    with runner.run_context(agent=rollout(lambda task: 1.0), store=store):
        running = asyncio.create_task(runner.iter())
        await asyncio.sleep(0)
        queued = await store.enqueue_rollout("task")
        await asyncio.wait_for(running, DEADLINE)
    (completed,) = await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=DEADLINE)
    assert completed.status == "succeeded"


async def test_one_rollout_at_a_time_unless_asked_for_more(store: InMemoryLightningStore) -> None:
    running: list[str] = []

    @rollout
    async def agent(task: str) -> None:
        running.append(task)
        await asyncio.sleep(0)
        assert running == [task]
        running.remove(task)

    for task in "abc":
        await store.enqueue_rollout(task)
    runner = make(max_rollouts=3)
    with runner.run_context(agent=agent, store=store):
        await asyncio.wait_for(runner.iter(), DEADLINE)
    assert [item.status for item in await store.query_rollouts()] == ["succeeded"] * 3


async def test_a_limit_of_zero_runs_nothing(store: InMemoryLightningStore) -> None:
    await store.enqueue_rollout("task")
    runner = make(max_rollouts=0)
    with runner.run_context(agent=rollout(lambda task: 1.0), store=store):
        await asyncio.wait_for(runner.iter(), DEADLINE)
    assert [item.status for item in await store.query_rollouts()] == ["queuing"]


def test_a_heartbeat_tells_v03s_figures() -> None:
    assert set(system_snapshot()) == {
        "timestamp",
        "host",
        "os",
        "cpu_name",
        "cpu_cores",
        "cpu_threads",
        "cpu_usage_pct",
        "mem_used_gb",
        "mem_total_gb",
        "mem_pct",
        "disk_used_gb",
        "disk_total_gb",
        "disk_pct",
        "bytes_sent_mb",
        "bytes_recv_mb",
    }
    assert set(system_snapshot(include_gpu=True)) - set(system_snapshot()) == {"gpus"}


def test_without_psutil_a_heartbeat_tells_less(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = set(system_snapshot())
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "psutil" else find_spec(name))
    assert set(system_snapshot()) < with_it
