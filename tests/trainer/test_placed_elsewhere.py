"""A trainer whose parts live in several processes."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.trainer.silence import SilenceLimit


class Work(agl.Algorithm):
    """Runs every task and remembers, here, what came of it."""

    def __init__(self) -> None:
        self.spans: list[list[agl.Span]] = []
        self.finished: list[agl.Rollout] = []

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:  # type: ignore[override]
        store = self.get_store()
        await store.update_resources("pid", {"prompt": agl.PromptTemplate(template=str(os.getpid()), engine="jinja")})
        requests = [agl.EnqueueRolloutRequest(input=task, mode="train") for task in train_dataset]
        ids = [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]
        self.finished = await store.wait_for_rollouts(rollout_ids=ids, timeout=60)
        self.spans = [list(await store.query_spans(rollout_id)) for rollout_id in ids]


@agl.rollout
async def whereabouts(task: int) -> float:
    agl.emit_message(str(os.getpid()))
    return float(task)


def pids(spans: list[list[agl.Span]]) -> set[str]:
    return {str(agl.get_message_value(span)) for each in spans for span in each} - {"None"}


@pytest.mark.parametrize(
    "strategy", ["cs", {"type": "cs", "server_port": 0, "n_runners": 2}, {"name": "cs", "server_port": 0}], ids=str
)
def test_named_strategy_runs_agents_in_processes(strategy: Any) -> None:
    algorithm = Work()
    agl.Trainer(algorithm=algorithm, strategy=strategy, n_runners=2).fit(whereabouts, [1, 2, 3])
    assert [rollout.status for rollout in algorithm.finished] == ["succeeded"] * 3
    assert [agl.find_final_reward(spans) for spans in algorithm.spans] == [1.0, 2.0, 3.0]
    assert pids(algorithm.spans)
    assert str(os.getpid()) not in pids(algorithm.spans)


def test_lambdas_closures_and_hooks_travel(tmp_path: Path) -> None:
    offset = 10.0
    algorithm = Work()

    class Note(agl.Hook):
        async def on_rollout_end(self, *, rollout: agl.Rollout, **_: Any) -> None:  # type: ignore[override]
            (tmp_path / str(rollout.input)).touch()

    trainer = agl.Trainer(algorithm=algorithm, strategy={"type": "cs", "server_port": 0}, hooks=Note())
    trainer.fit(agl.rollout(lambda task: task + offset), [1, 2])  # type: ignore[arg-type]
    assert [agl.find_final_reward(spans) for spans in algorithm.spans] == [11.0, 12.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


async def test_works_inside_a_running_event_loop() -> None:
    algorithm = Work()
    agl.Trainer(algorithm=algorithm, strategy={"type": "cs", "server_port": 0}).fit(whereabouts, [1])
    assert [rollout.status for rollout in algorithm.finished] == ["succeeded"]


def test_algorithm_elsewhere_leaves_its_work_in_the_store_here_and_serves_the_gateway_there() -> None:
    proxy = agl.LLMProxy()
    store = agl.InMemoryLightningStore()
    running: list[bool] = []

    class Asking(Work):
        async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:  # type: ignore[override]
            gateway = self.get_llm_proxy()
            assert gateway is not None
            assert gateway.is_running()
            await super().run(train_dataset)

    @agl.rollout
    async def agent(task: int) -> float:
        running.append(proxy.is_running())
        return 1.0

    trainer = agl.Trainer(
        algorithm=Asking(),
        store=store,
        llm_proxy=proxy,
        strategy={"type": "cs", "server_port": 0, "main_process": "runner"},
    )
    for _ in range(2):  # what the first run has left in the components does not keep the second from starting
        trainer.fit(agent, [1, 2])
    assert running == [False] * 4
    finished = asyncio.run(store.query_rollouts())
    assert [rollout.status for rollout in finished] == ["succeeded"] * 4
    resources = asyncio.run(store.get_resources_by_id("pid"))
    assert resources is not None
    assert resources.resources["prompt"].template != str(os.getpid())  # type: ignore[union-attr]


def test_what_a_component_cannot_take_along_is_named() -> None:
    class Connected(agl.OtelTracer):
        def __init__(self) -> None:
            super().__init__()
            self.connection = threading.Lock()

    with pytest.raises(ValueError, match=r"the run\.runner\._tracer\.connection, a lock, cannot be sent"):
        agl.Trainer(strategy="cs", tracer=Connected(), algorithm=Work()).fit(whereabouts, [1])


def test_runners_of_another_machines_run_keep_no_folder(tmp_path: Path) -> None:
    async def serve() -> None:
        server = agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0)
        await server.start()
        try:
            port = int(server.endpoint.rpartition(":")[2])
            strategy = agl.ClientServerExecutionStrategy("runner", server_port=port)
            await server.enqueue_rollout(1)
            trainer = agl.Trainer(strategy=strategy, run_dir=tmp_path / "run", max_rollouts=1)
            await asyncio.to_thread(trainer.fit, whereabouts)
            assert [rollout.status for rollout in await server.query_rollouts()] == ["succeeded"]
        finally:
            await server.stop()

    asyncio.run(serve())
    assert not (tmp_path / "run").exists()


async def test_silence_is_limited_only_where_the_program_says_nothing() -> None:
    store = SilenceLimit(agl.InMemoryLightningStore(), 60.0)
    silent = await store.enqueue_rollout("a", config=agl.RolloutConfig(timeout_seconds=5.0))
    never = await store.enqueue_rollout("b", config=agl.RolloutConfig(unresponsive_seconds=None))
    short = await store.enqueue_rollout("c", config=agl.RolloutConfig(unresponsive_seconds=1.0))
    plain = await store.enqueue_rollout("d")
    assert (silent.config.timeout_seconds, silent.config.unresponsive_seconds) == (5.0, 60.0)
    assert never.config.unresponsive_seconds is None
    assert short.config.unresponsive_seconds == 1.0
    assert plain.config.unresponsive_seconds == 60.0


@pytest.mark.parametrize(
    ("strategy", "limit"),
    [
        pytest.param({"type": "cs", "server_port": 0}, 60.0, id="cs"),
        pytest.param({"type": "cs", "server_port": 0, "main_process": "runner"}, None, id="cs_runner"),
        pytest.param("shm", None, id="shm"),
    ],
)
def test_silence_ends_attempts_of_runners_that_are_watched(
    strategy: Any, limit: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.gettrace", lambda: None)  # a coverage tool's, say
    trainer = agl.Trainer(strategy=strategy, algorithm=Work())
    trainer.fit(whereabouts, [1])
    (rollout,) = asyncio.run(trainer.store.query_rollouts())
    assert rollout.config.unresponsive_seconds == limit


def test_nobody_at_a_breakpoint_is_taken_for_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.gettrace", lambda: print)
    trainer = agl.Trainer(strategy={"type": "cs", "server_port": 0}, algorithm=Work())
    trainer.fit(whereabouts, [1])
    (rollout,) = asyncio.run(trainer.store.query_rollouts())
    assert rollout.config.unresponsive_seconds is None
