from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace as otel

import agentlightning as agl


@agl.rollout
async def double(task: dict[str, int]) -> float:
    await asyncio.sleep(0)
    return task["number"] * 2.0


@agl.rollout
async def fail_on_odd(task: dict[str, int]) -> float:
    if task["number"] % 2:
        raise LookupError("an odd number")
    return 1.0


class RunAll(agl.Algorithm):
    """Enqueues every task and waits for all."""

    def __init__(self) -> None:
        self.finished: list[agl.Rollout] = []
        self.rewards: list[float | None] = []

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:  # type: ignore[override]
        store = self.get_store()
        await store.add_resources({})
        requests = [agl.EnqueueRolloutRequest(input=task, mode="train") for task in train_dataset]
        ids = [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]
        self.finished = await store.wait_for_rollouts(rollout_ids=ids, timeout=60)
        self.rewards = [agl.find_final_reward(list(await store.query_spans(id))) for id in ids]


def tasks(count: int) -> list[dict[str, int]]:
    return [{"number": number} for number in range(count)]


@pytest.mark.parametrize("n_runners", [1, 4])
def test_every_task_is_run_once_and_its_reward_arrives(n_runners: int) -> None:
    algorithm = RunAll()
    agl.Trainer(algorithm=algorithm, n_runners=n_runners).fit(double, tasks(40))
    assert [rollout.status for rollout in algorithm.finished] == ["succeeded"] * 40
    assert algorithm.rewards == [number * 2.0 for number in range(40)]


def test_a_runner_that_reaches_its_quota_leaves_the_others_alone() -> None:
    runners: set[agl.Runner[Any]] = set()
    ended = asyncio.Event()

    class Telling(agl.OtelTracer):
        def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
            super().teardown_worker(worker_id)
            ended.set()

    @agl.rollout
    async def agent(task: dict[str, int]) -> float:
        if task["number"] == 0:
            async with asyncio.timeout(10):
                await ended.wait()
        runners.add(agent.get_runner())
        return 1.0

    algorithm = RunAll()
    agl.Trainer(algorithm=algorithm, n_runners=2, max_rollouts=3, tracer=Telling()).fit(agent, tasks(6))
    assert [rollout.status for rollout in algorithm.finished] == ["succeeded"] * 6
    assert len(runners) == 2


def test_failing_rollouts_leave_the_others_alone() -> None:
    algorithm = RunAll()
    agl.Trainer(algorithm=algorithm, n_runners=3).fit(fail_on_odd, tasks(10))
    assert [rollout.status for rollout in algorithm.finished] == ["succeeded", "failed"] * 5


async def test_fit_works_inside_a_running_event_loop() -> None:
    algorithm = RunAll()
    agl.Trainer(algorithm=algorithm, n_runners=2).fit(double, tasks(4))
    assert len(algorithm.finished) == 4


def test_algorithm_runs_on_the_main_thread_and_finds_what_it_needs() -> None:
    seen: dict[str, Any] = {}

    @agl.algo
    async def look(store: agl.LightningStore, adapter: agl.TraceAdapter[Any], llm_proxy: agl.LLMProxy | None) -> None:
        seen.update(store=store, adapter=adapter, llm_proxy=llm_proxy, thread=threading.current_thread())

    trainer = agl.Trainer(algorithm=look)
    trainer.fit(double)
    assert seen["store"] is trainer.store
    assert seen["adapter"] is trainer.adapter
    assert seen["llm_proxy"] is None
    assert seen["thread"] is threading.main_thread()


def test_synchronous_algorithm_is_called() -> None:
    called: list[Sequence[int]] = []

    @agl.algo
    def look(train_dataset: Sequence[int]) -> None:
        called.append(train_dataset)

    agl.Trainer(algorithm=look).fit(double, [1, 2])
    assert called == [[1, 2]]


def test_dataset_that_an_algorithm_has_no_parameter_for_is_refused() -> None:
    @agl.algo
    def look(store: agl.LightningStore) -> None: ...

    with pytest.raises(TypeError, match="takes no train_dataset"):
        agl.Trainer(algorithm=look).fit(double, [1])


def test_without_algorithm_runners_serve_the_store_until_their_quota_is_used_up() -> None:
    store = agl.InMemoryLightningStore()
    asyncio.run(_enqueue(store, 3))
    trainer = agl.Trainer(store=store, strategy=agl.SharedMemoryExecutionStrategy(main_thread="runner"), max_rollouts=3)
    thread = threading.Thread(target=trainer.fit, args=(double,), daemon=True)
    thread.start()
    statuses = asyncio.run(_wait_for_all(store))
    assert statuses == ["succeeded"] * 3


async def _enqueue(store: agl.LightningStore, count: int) -> None:
    for task in tasks(count):
        await store.enqueue_rollout(task)


async def _wait_for_all(store: agl.LightningStore) -> list[str]:
    ids = [rollout.rollout_id for rollout in await store.query_rollouts()]
    return [rollout.status for rollout in await store.wait_for_rollouts(rollout_ids=ids, timeout=30)]


def test_dev_runs_every_task_once_without_resources() -> None:
    trainer = agl.Trainer(n_runners=2)
    trainer.dev(double, tasks(3), val_dataset=tasks(2))
    rollouts = asyncio.run(_all_rollouts(trainer.store))
    assert sorted(str(rollout.mode) for rollout in rollouts) == ["train"] * 3 + ["val"] * 2
    assert {rollout.status for rollout in rollouts} == {"succeeded"}


async def _all_rollouts(store: agl.LightningStore) -> list[agl.Rollout]:
    return list(await store.query_rollouts())


def test_dev_refuses_a_slow_algorithm() -> None:
    with pytest.raises(TypeError, match="FastAlgorithm"):
        agl.Trainer(algorithm=RunAll()).dev(double)


def test_hooks_see_every_rollout_and_its_reward() -> None:
    rewards: list[float | None] = []

    class Collect(agl.Hook):
        async def on_rollout_end(self, *, spans: Sequence[agl.Span], **_: Any) -> None:  # type: ignore[override]
            rewards.append(agl.find_final_reward(list(spans)))

    agl.Trainer(algorithm=RunAll(), n_runners=2, hooks=Collect()).fit(double, tasks(3))
    assert sorted(reward or 0.0 for reward in rewards) == [0.0, 2.0, 4.0]


def test_strategy_wins_over_n_runners_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trainer = agl.Trainer(strategy=agl.SharedMemoryExecutionStrategy(n_runners=2), n_runners=5)
    assert trainer.n_runners == 2
    assert "n_runners=5 is ignored" in caplog.text


def test_gateway_is_up_for_as_long_as_a_run_lasts() -> None:
    proxy = agl.LLMProxy()
    running: list[bool] = []

    @agl.algo
    def look(llm_proxy: agl.LLMProxy | None) -> None:
        running.append(llm_proxy is proxy and proxy.is_running())

    agl.Trainer(algorithm=look, llm_proxy=proxy).fit(double)
    assert running == [True]
    assert not proxy.is_running()


def test_synchronous_algorithm_may_use_the_store_with_a_loop_of_its_own() -> None:
    counts: list[int] = []

    @agl.algo
    def look(store: agl.LightningStore) -> None:
        asyncio.run(_enqueue(store, 2))
        counts.append(len(asyncio.run(_wait_for_all(store))))

    agl.Trainer(algorithm=look, n_runners=2).fit(double)
    assert counts == [2]


def test_spans_of_the_algorithm_belong_to_no_rollout() -> None:
    """Also while just one rollout runs, to which a span without a context would go."""
    is_open, may_end, names = threading.Event(), threading.Event(), list[str]()

    def agent(task: int) -> float:
        is_open.set()
        assert may_end.wait(60)
        return 1.0

    class Calling(RunAll):
        async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:  # type: ignore[override]
            running = asyncio.create_task(super().run(train_dataset))
            await asyncio.to_thread(is_open.wait, 60)
            otel.get_tracer("a library").start_span("call of the algorithm").end()
            may_end.set()
            await running
            names.extend(span.name for span in await self.get_store().query_spans(self.finished[0].rollout_id))

    agl.Trainer(algorithm=Calling(), n_runners=1).fit(agl.rollout(agent), [1])
    assert names == ["agentlightning.annotation"]
