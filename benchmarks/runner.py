"""No-op rollouts per second through runner, tracer and the in-memory store; each returns a reward (one span)."""

from __future__ import annotations

import asyncio
import sys
import time

from agentlightning.litagent import rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import OtelTracer
from agentlightning.types import EnqueueRolloutRequest


@rollout
async def no_op(task: int) -> float:
    return 1.0


async def measure(rollouts: int, max_concurrency: int) -> tuple[float, float]:
    store = InMemoryLightningStore()
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(rollouts)])
    runner = LitAgentRunner[int](OtelTracer(), max_rollouts=rollouts, max_concurrency=max_concurrency)
    with runner.run_context(agent=no_op, store=store):
        wall, cpu = time.perf_counter(), time.process_time()
        await runner.iter()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finished = await store.query_rollouts(status_in=["succeeded"])
    assert finished.total == rollouts
    await store.close()
    return rollouts / wall, rollouts / cpu


def main() -> None:
    rollouts = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for max_concurrency in (1, 4, 16, 64):
        by_wall, by_cpu = asyncio.run(measure(rollouts, max_concurrency))
        print(f"max_concurrency={max_concurrency:3d}: {by_wall:6.0f} rollouts/s, {by_cpu:6.0f} per CPU second")


if __name__ == "__main__":
    main()
