"""Rollouts per second through runner, tracer and the in-memory store; each returns a reward (one span)."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from agentlightning.litagent import rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import OtelTracer
from agentlightning.types import EnqueueRolloutRequest

LAG_PAUSE = 0.001


@rollout
async def no_op(task: int) -> float:
    return 1.0


@rollout
def sync_no_op(task: int) -> float:
    return 1.0


async def measure(agent: Any, rollouts: int, max_concurrency: int, **options: Any) -> tuple[float, float, float]:
    """Returns rollouts per second, per CPU second of this process, and the longest time the event loop was held."""
    store = InMemoryLightningStore()
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(rollouts)])
    runner = LitAgentRunner[int](OtelTracer(), max_rollouts=rollouts, max_concurrency=max_concurrency, **options)
    with runner.run_context(agent=agent, store=store):
        lag = asyncio.create_task(longest_lag())
        wall, cpu = time.perf_counter(), time.process_time()
        await runner.iter()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        lag.cancel()
    finished = await store.query_rollouts(status_in=["succeeded"])
    assert finished.total == rollouts
    await store.close()
    return rollouts / wall, rollouts / cpu, await lag


async def longest_lag() -> float:
    """Sleep for a millisecond again and again; returns the most seconds by which it was woken late."""
    longest = 0.0
    try:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_PAUSE)
            longest = max(longest, time.perf_counter() - before - LAG_PAUSE)
    except asyncio.CancelledError:
        return longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=20, help="rollouts in a process each")
    options = parser.parse_args()
    for name, agent in (("async", no_op), ("sync", sync_no_op)):
        for max_concurrency in (1, 16, 64, 200):
            wall, cpu, lag = asyncio.run(measure(agent, options.rollouts, max_concurrency))
            print(
                f"{name:5}, {max_concurrency:3d} at a time: {wall:6.0f} rollouts/s, {cpu:6.0f} per CPU second, "
                f"loop held for {1000 * lag:3.0f} ms at most"
            )
    for max_concurrency in (1, 2):
        wall, _, _ = asyncio.run(measure(sync_no_op, options.processes, max_concurrency, isolation="process"))
        print(f"a process each, {max_concurrency} at a time: {wall:.1f} rollouts/s")


if __name__ == "__main__":
    main()
