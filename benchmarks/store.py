"""Operations of the store per second, awaited one by one and from many producers at once.

    python benchmarks/store.py [--sizes 1000,50000] [--seconds 1.0] [--memory]

Each line: the operation, calls per second, microseconds of processor time per call. The reference figures are
agent-lightning v0.3.1's dictionaries in memory, on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agentlightning.store import InMemoryLightningStore, LightningStore, SqliteLightningStore
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest, OtelResource, Span, SpanContext, TraceStatus

REFERENCE = {
    "enqueue_rollout": 20_264,
    "dequeue_rollout": 8_495,
    "add_span": 6_459,
    "add_many_spans(100)": 477,
    "update_attempt": 10_574,
    "query_spans(101)": 9_633,
    "query_rollouts(limit=100, sorted)": 1_125,
}


def make_span(claim: AttemptedRollout, sequence_id: int, tokens: int = 0) -> Span:
    trace_id, span_id = f"{random.getrandbits(128):032x}", f"{random.getrandbits(64):016x}"
    attributes = {f"gen_ai.attr.{i}": "x" * 32 for i in range(8)}
    if tokens:
        attributes |= {"response_token_ids": [random.randrange(150_000) for _ in range(tokens)]}
    return Span(
        rollout_id=claim.rollout_id,
        attempt_id=claim.attempt.attempt_id,
        sequence_id=sequence_id,
        trace_id=trace_id,
        span_id=span_id,
        parent_id=None,
        name="openai.chat.completion",
        status=TraceStatus(status_code="OK"),
        attributes=attributes,
        events=[],
        links=[],
        start_time=time.time(),
        end_time=time.time(),
        context=SpanContext(trace_id=trace_id, span_id=span_id, is_remote=False, trace_state={}),
        parent=None,
        resource=OtelResource(attributes={}, schema_url=""),
    )


async def measure(name: str, seconds: float, calls: list[Callable[[], Awaitable[object]]]) -> None:
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    for call in calls:
        await call()
        count += 1
        if time.perf_counter() - start > seconds:
            break
    report(name, count, time.perf_counter() - start, time.process_time() - cpu)


def report(name: str, count: int, wall: float, cpu: float) -> None:
    reference = f"   v0.3.1: {REFERENCE[name]:>7,}" if name in REFERENCE else ""
    print(f"{name:36} {count / wall:>9,.0f}/s {cpu / count * 1e6:>9,.1f} us{reference}", flush=True)


async def sequential(store: LightningStore, stored: int, seconds: float, count: int = 4000) -> None:
    for first in range(0, stored, 500):
        await store.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input={"task": i}, mode="train") for i in range(first, min(first + 500, stored))]
        )
    await measure(
        "enqueue_rollout", seconds, [lambda: store.enqueue_rollout({"task": 1}, mode="train") for _ in range(count)]
    )
    claims: list[AttemptedRollout] = []

    async def claim() -> None:
        claimed = await store.dequeue_rollout(worker_id="worker")
        assert claimed is not None
        claims.append(claimed)

    await measure("dequeue_rollout", seconds, [claim for _ in range(count)])
    spans = [make_span(claims[i % len(claims)], i // len(claims) + 1) for i in range(count)]
    await measure("add_span", seconds, [lambda span=span: store.add_span(span) for span in spans])
    spans = [make_span(claims[i % len(claims)], 50 + i // len(claims), tokens=600) for i in range(count)]
    await measure("add_span(600 tokens)", seconds, [lambda span=span: store.add_span(span) for span in spans])
    batches = [[make_span(claims[i], 100 + j) for j in range(100)] for i in range(min(200, len(claims)))]
    await measure(
        "add_many_spans(100)", seconds, [lambda batch=batch: store.add_many_spans(batch) for batch in batches]
    )
    rollout_id = claims[0].rollout_id
    await measure("query_spans(101)", seconds, [lambda: store.query_spans(rollout_id) for _ in range(count)])
    await measure("get_rollout_by_id", seconds, [lambda: store.get_rollout_by_id(rollout_id) for _ in range(count)])
    await measure(
        "query_rollouts(limit=100, sorted)",
        seconds,
        [lambda: store.query_rollouts(limit=100, sort_by="start_time", sort_order="desc") for _ in range(count)],
    )
    await measure(
        "query_rollouts(queuing, limit=100)",
        seconds,
        [lambda: store.query_rollouts(status_in=["queuing"], limit=100, sort_by="start_time") for _ in range(count)],
    )
    await measure(
        "update_attempt",
        seconds,
        [lambda c=c: store.update_attempt(c.rollout_id, c.attempt.attempt_id, status="succeeded") for c in claims],
    )


async def concurrent(store: LightningStore, producers: int, seconds: float) -> None:
    """Whole lives of rollouts: enqueue, dequeue, four spans, success."""
    end, lives = time.perf_counter() + seconds, 0

    async def produce() -> None:
        nonlocal lives
        while time.perf_counter() < end:
            await store.enqueue_rollout({"task": 1})
            claim = await store.dequeue_rollout(worker_id="worker")
            assert claim is not None
            for sequence_id in range(4):
                await store.add_span(make_span(claim, sequence_id))
            await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded")
            lives += 1

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(produce() for _ in range(producers)))
    report(f"operations of {producers} producers", lives * 7, time.perf_counter() - start, time.process_time() - cpu)


async def main(sizes: list[int], seconds: float, memory: bool) -> None:
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            store = InMemoryLightningStore() if memory else SqliteLightningStore(Path(folder) / "store.db")
            print(f"-- {type(store).__name__}, {size:,} rollouts stored")
            try:
                await sequential(store, size, seconds)
                await concurrent(store, 64, seconds)
            finally:
                await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,50000", help="rollouts stored before measuring")
    parser.add_argument("--seconds", type=float, default=1.0, help="the longest that one operation is measured")
    parser.add_argument("--memory", action="store_true", help="the in-memory store instead of a file")
    args = parser.parse_args()
    asyncio.run(main([int(size) for size in args.sizes.split(",")], args.seconds, args.memory))
