"""Runners on a Ray cluster of several nodes, one of which is lost; and the demo, which learns there as elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning._internal.aio import wait_for_flag
from agentlightning.types import RolloutConfig

pytest.importorskip("ray")

pytestmark = pytest.mark.soak

ROLLOUTS = 500
RUNNERS = 16
CPUS = 4
"""Of each node: room for all runners, so that those of a lost node find a place on the other."""
LOST_AFTER = 100
SECONDS = 0.5
"""For one rollout, so that the runners that are started again find something to do."""


class Recorded(agl.LitAgent[int]):
    """Takes a moment, and leaves a line for each time that it runs."""

    def __init__(self, record: Path) -> None:
        super().__init__()
        self._record = record

    async def training_rollout_async(self, task: int, resources: Any, rollout: Any) -> float:
        import ray

        node = ray.get_runtime_context().get_node_id()
        with self._record.open("a") as record:
            record.write(f"{rollout.attempt.attempt_id} {node} {os.getpid()}\n")
        await asyncio.sleep(SECONDS)
        return 1.0


class Enqueuing(agl.Algorithm):
    """Enqueues all, and loses a node when some have ended and all runners are at work."""

    def __init__(self, record: Path, lose_a_node: Callable[[], None]) -> None:
        self._record = record
        self._lose_a_node = lose_a_node

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:  # type: ignore[override]
        store = self.get_store()
        config = RolloutConfig(max_attempts=5, retry_condition=["unresponsive"])
        ids = [(await store.enqueue_rollout(task, mode="train", config=config)).rollout_id for task in range(ROLLOUTS)]
        await store.wait_for_rollouts(rollout_ids=ids[:LOST_AFTER], timeout=300)
        async with asyncio.timeout(60):
            while len(processes_in(self._record)) < RUNNERS:  # noqa: ASYNC110  # a file sets no event
                await asyncio.sleep(0.1)
        await asyncio.to_thread(self._lose_a_node)
        assert len(await store.wait_for_rollouts(rollout_ids=ids, timeout=300)) == ROLLOUTS


@contextmanager
def two_nodes() -> Generator[tuple[str, Callable[[], None]]]:
    """Start a cluster on this machine; yields its address and what kills the node without this process."""
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=CPUS)
        yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


def test_all_rollouts_end_when_a_node_is_lost(tmp_path: Path) -> None:
    record = tmp_path / "record"
    store = agl.InMemoryLightningStore()
    with two_nodes() as (address, lose_a_node):
        strategy = agl.RayExecutionStrategy(RUNNERS, address, num_cpus=CPUS / RUNNERS, min_runners=4)
        trainer = agl.Trainer(algorithm=Enqueuing(record, lose_a_node), strategy=strategy, store=store)
        result = trainer.fit(Recorded(record))
    assert result.rollouts == {"succeeded": ROLLOUTS}
    lines = [line.split() for line in record.read_text().splitlines()]
    processes = processes_in(record)
    nodes = Counter(node for node, _ in processes)
    attempts = asyncio.run(attempts_of(store))
    lost = [attempt for each in attempts for attempt in each if attempt.status != "succeeded"]
    print(f"{len(processes)} processes on nodes {[*nodes.values()]}, {len(lost)} attempts lost")  # noqa: T201
    assert len(nodes) == 2
    assert len(processes) > RUNNERS, "those of the lost node were started again"
    assert lost
    assert len({attempt for attempt, _, _ in lines}) == len(lines), "no attempt ran twice"
    for each in attempts:
        assert [attempt.status for attempt in each].count("succeeded") == 1
        assert all(before.end_time <= after.start_time for before, after in pairwise(each)), "leases overlap"


def processes_in(record: Path) -> set[tuple[str, str]]:
    """Return the node and number of each process that has run an agent."""
    lines = record.read_text().splitlines() if record.exists() else []
    return {(node, process) for _, node, process in map(str.split, lines)}


async def attempts_of(store: agl.LightningStore) -> list[list[Any]]:
    rollouts = await store.query_rollouts()
    return [list(await store.query_attempts(rollout.rollout_id)) for rollout in rollouts]


def test_demo_learns_on_held_out_names_on_ray(tmp_path: Path) -> None:
    """Its runners reach store and gateway at the address of a node, with the tokens that the run has made up."""
    command = [sys.executable, "-c", "import sys; from agentlightning.cli import main; sys.exit(main())"]
    command += ["demo", "--strategy", "ray", "--output", str(tmp_path)]
    with two_nodes() as (address, _):
        subprocess.run(command, check=True, timeout=1800, env={**os.environ, "RAY_ADDRESS": address})
    summary = json.loads((tmp_path / "summary.json").read_text())
    before, after = summary["before"]["success"], summary["after"]["success"]
    print(f"{before:.3f} before, {after:.3f} after")  # noqa: T201
    assert 0.15 <= before <= 0.35
    assert after >= max(0.75, before + 0.45)
    assert summary["verdict"] == "better"
    assert summary["difference"]["low"] > 0


def test_program_stays_in_its_cluster_and_leaves_nothing_there() -> None:
    import ray

    async def algorithm(store: agl.LightningStore, event: agl.ExecutionEvent) -> None:
        assert isinstance(store, agl.LightningStoreServer)
        assert store.token, "other machines can reach it"
        async with asyncio.timeout(60):
            while len(await store.query_resources()) < 2:  # noqa: ASYNC110  # written in other processes
                await asyncio.sleep(0.02)
        assert ray.available_resources()["CPU"] == 2 * CPUS - 2

    async def runner(store: agl.LightningStore, worker_id: int, event: agl.ExecutionEvent) -> None:
        await store.add_resources({"prompt": agl.PromptTemplate(template="{x}", engine="f-string")})
        await wait_for_flag(event)

    with two_nodes() as (address, _):
        ray.init(address)
        try:
            for _ in range(2):
                agl.RayExecutionStrategy(2).execute(algorithm, runner, agl.InMemoryLightningStore())
                assert ray.is_initialized()
                asyncio.run(all_free())
        finally:
            ray.shutdown()


async def all_free() -> None:
    import ray

    async with asyncio.timeout(60):
        while ray.available_resources().get("CPU") != 2 * CPUS:  # noqa: ASYNC110  # Ray tells nobody
            await asyncio.sleep(0.1)
