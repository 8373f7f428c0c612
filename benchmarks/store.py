"""How fast the store is: operations awaited one by one, many producers at once, waiting, and a million spans.

    python benchmarks/store.py [sequential] [producers] [waiting] [million]      all but the last by default
        [--store memory|file|full|http|postgresql://...] [--sizes 1000,50000] [--seconds 1.0]

`file` is SQLite with synchronous=NORMAL, `full` with FULL, `http` a client and a server process on such a `file`.
Each line: the operation, calls per second, microseconds of processor time per call (of this process, and of the
server's). The reference figures are agent-lightning v0.3.1's dictionaries in memory, on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agentlightning.store import (
    InMemoryLightningStore,
    LightningStore,
    LightningStoreClient,
    PostgresLightningStore,
    SqliteLightningStore,
)
from agentlightning.types import (
    AttemptedRollout,
    EnqueueRolloutRequest,
    OtelResource,
    RolloutConfig,
    Span,
    SpanContext,
    TraceStatus,
)

REFERENCE_HTTP = {
    "enqueue_rollout": 759,
    "dequeue_rollout": 1_022,
    "add_span": 831,
    "add_many_spans(100)": 9,
    "update_attempt": 975,
    "query_spans(101)": 411,
    "query_rollouts(limit=100, sorted)": 273,
}
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


@dataclass
class Bench:
    """A store to measure, and the process that serves it, if any."""

    store: LightningStore
    seconds: float
    server: int | None = None

    @property
    def reference(self) -> dict[str, int]:
        return REFERENCE_HTTP if self.server else REFERENCE

    async def measure(self, name: str, calls: Iterable[Callable[[], Awaitable[object]]], items: int = 1) -> None:
        start, cpu, served, count = time.perf_counter(), time.process_time(), self.server_cpu(), 0
        for call in calls:
            await call()
            count += 1
            if time.perf_counter() - start > self.seconds:
                break
        self.report(
            name, count, time.perf_counter() - start, time.process_time() - cpu, self.server_cpu() - served, items
        )

    def report(self, name: str, count: int, wall: float, cpu: float, served: float, items: int = 1) -> None:
        known = self.reference.get(name)
        line = f"{name:36} {count / wall:>9,.0f}/s {cpu / count * 1e6:>9,.1f} us"
        line += f"  server {served / count * 1e6:>7,.0f} us" if self.server else ""
        line += f"  {count * items / wall:>9,.0f} items/s" if items > 1 else ""
        print(line + (f"   v0.3.1: {known:>7,}" if known else ""), flush=True)

    def server_cpu(self) -> float:
        if self.server is None:
            return 0.0
        fields = Path(f"/proc/{self.server}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident megabytes of the process that holds the store."""
        status = Path(f"/proc/{self.server or 'self'}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def sequential(bench: Bench, stored: int, count: int = 4000) -> None:
    store = bench.store
    for first in range(0, stored, 500):
        await store.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input={"task": i}, mode="train") for i in range(first, min(first + 500, stored))]
        )
    await bench.measure(
        "enqueue_rollout", [lambda: store.enqueue_rollout({"task": 1}, mode="train") for _ in range(count)]
    )
    claims: list[AttemptedRollout] = []

    async def claim() -> None:
        claimed = await store.dequeue_rollout(worker_id="worker")
        assert claimed is not None
        claims.append(claimed)

    await bench.measure("dequeue_rollout", [claim for _ in range(count)])
    spans = [make_span(claims[i % len(claims)], i // len(claims) + 1) for i in range(count)]
    await bench.measure("add_span", [lambda span=span: store.add_span(span) for span in spans])
    spans = [make_span(claims[i % len(claims)], 50 + i // len(claims), tokens=600) for i in range(count)]
    await bench.measure("add_span(600 tokens)", [lambda span=span: store.add_span(span) for span in spans])
    batches = [[make_span(claims[i], 100 + j) for j in range(100)] for i in range(min(200, len(claims)))]
    await bench.measure("add_many_spans(100)", [lambda batch=batch: store.add_many_spans(batch) for batch in batches])
    rollout_id = claims[0].rollout_id
    await bench.measure("query_spans(101)", [lambda: store.query_spans(rollout_id) for _ in range(count)])
    await bench.measure("get_rollout_by_id", [lambda: store.get_rollout_by_id(rollout_id) for _ in range(count)])
    await bench.measure(
        "query_rollouts(limit=100, sorted)",
        [lambda: store.query_rollouts(limit=100, sort_by="start_time", sort_order="desc") for _ in range(count)],
    )
    await bench.measure(
        "query_rollouts(queuing, limit=100)",
        [lambda: store.query_rollouts(status_in=["queuing"], limit=100, sort_by="start_time") for _ in range(count)],
    )
    await bench.measure(
        "update_attempt",
        [lambda c=c: store.update_attempt(c.rollout_id, c.attempt.attempt_id, status="succeeded") for c in claims],
    )


async def producers(bench: Bench, count: int = 64) -> None:
    """Many callers at once: spans one by one and in tens, then whole lives of rollouts."""
    store = bench.store
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(count)])
    claims = [claim for _ in range(count) if (claim := await store.dequeue_rollout(worker_id="worker"))]
    for batch in (1, 10):
        made = [[[make_span(claim, i) for i in range(batch)] for _ in range(3000 // batch)] for claim in claims]
        gc.collect()
        gc.freeze()  # two million objects of the spans to come would be looked through again and again
        done = [0]
        end = time.perf_counter() + bench.seconds * 2

        async def produce(batches: list[list[Span]], done: list[int] = done, end: float = end) -> None:
            for spans in batches:
                await store.add_many_spans(spans)
                done[0] += 1
                if time.perf_counter() > end:
                    return

        start, cpu, served = time.perf_counter(), time.process_time(), bench.server_cpu()
        await asyncio.gather(*(produce(batches) for batches in made))
        used = time.process_time() - cpu, bench.server_cpu() - served
        bench.report(f"spans of {count} producers in {batch}s", done[0], time.perf_counter() - start, *used, batch)
    await lives(bench, count)


async def lives(bench: Bench, count: int) -> None:
    """Enqueue, dequeue, four spans, success."""
    store, end, ended = bench.store, time.perf_counter() + bench.seconds, 0

    async def live() -> None:
        nonlocal ended
        while time.perf_counter() < end:
            await store.enqueue_rollout({"task": 1})
            claim = await store.dequeue_rollout(worker_id="worker")
            assert claim is not None
            for sequence_id in range(4):
                await store.add_span(make_span(claim, sequence_id))
            await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded")
            ended += 1

    start, cpu, served = time.perf_counter(), time.process_time(), bench.server_cpu()
    await asyncio.gather(*(live() for _ in range(count)))
    used = time.process_time() - cpu, bench.server_cpu() - served
    bench.report(f"operations of {count} lives", ended * 7, time.perf_counter() - start, *used)


async def waiting(bench: Bench) -> None:
    """What waiting costs, and how soon it ends."""
    store = bench.store
    rollout = await store.enqueue_rollout("awaited")
    waits = [asyncio.create_task(store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])) for _ in range(1000)]
    await asyncio.wait(waits, timeout=3)
    start = time.perf_counter()
    await store.update_rollout(rollout.rollout_id, status="succeeded")
    await asyncio.gather(*waits)
    print(f"1,000 waiters of one rollout heard of its end after {(time.perf_counter() - start) * 1e3:.1f} ms")

    made = [await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(1000)]) for _ in range(10)]
    ids = [rollout.rollout_id for rollouts in made for rollout in rollouts]
    wait = asyncio.create_task(store.wait_for_rollouts(rollout_ids=ids))
    await asyncio.wait({wait}, timeout=1)
    cpu, served = time.process_time(), bench.server_cpu()
    await asyncio.wait({wait}, timeout=5)
    used = time.process_time() - cpu, bench.server_cpu() - served
    print(f"waiting for 10,000 rollouts used {used[0] * 1e3:.1f} ms (server {used[1] * 1e3:.0f} ms) of CPU in 5 s")
    wait.cancel()

    late = []
    for _ in range(20):
        claim = await store.start_rollout("slow", config=RolloutConfig(timeout_seconds=0.1))
        start = time.perf_counter()
        await store.wait_for_rollouts(rollout_ids=[claim.rollout_id])
        late.append(time.perf_counter() - start - 0.1)
    print(f"a timeout was seen {max(late) * 1e3:.1f} ms late at most, {sum(late) / len(late) * 1e3:.1f} on average")


async def million(bench: Bench, count: int = 1_000_000) -> None:
    """A million spans of 1 kB in 1,000 rollouts: memory, and one rollout's spans."""
    store = bench.store
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(1000)])
    claims = await store.dequeue_many_rollouts(limit=1000, worker_id="worker")
    before, start, cpu, served = bench.memory(), time.perf_counter(), time.process_time(), bench.server_cpu()
    for first in range(0, count, 500):
        claim = claims[first // 500 % 1000]
        await store.add_many_spans([make_span(claim, first + i) for i in range(500)])
    used = time.process_time() - cpu, bench.server_cpu() - served
    bench.report("spans in 500s", count // 500, time.perf_counter() - start, *used, 500)
    print(f"resident memory {before:.0f} MB before, {bench.memory():.0f} MB after {count:,} spans", flush=True)
    await bench.measure(
        "query_spans(10) of a million", [lambda c=c: store.query_spans(c.rollout_id, limit=10) for c in claims]
    )
    await bench.measure(
        "query_spans(all of one rollout)", [lambda c=c: store.query_spans(c.rollout_id) for c in claims]
    )


@asynccontextmanager
async def opened(kind: str, seconds: float) -> AsyncGenerator[Bench]:
    """Open an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        if kind == "http":
            command = [sys.executable, "-c", _SERVER, str(path)]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            assert process.stdout is not None
            client = LightningStoreClient((await process.stdout.readline()).decode().strip())
            try:
                yield Bench(client, seconds, process.pid)
            finally:
                await client.close()
                process.terminate()
                await process.wait()
            return
        if kind == "memory":
            store: LightningStore = InMemoryLightningStore()
        elif kind.startswith("postgres"):
            store = PostgresLightningStore(kind, namespace=f"benchmark_{random.getrandbits(32):08x}")
        else:
            store = SqliteLightningStore(path, synchronous="FULL" if kind == "full" else "NORMAL")
        try:
            yield Bench(store, seconds)
        finally:
            await store.close()


_SERVER = """
import asyncio, sys
from agentlightning.store import LightningStoreServer, SqliteLightningStore

async def serve():
    server = LightningStoreServer(SqliteLightningStore(sys.argv[1]), port=0, launch_mode="asyncio")
    await server.start()
    print(server.endpoint, flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


async def main(parts: list[str], kind: str, sizes: list[int], seconds: float) -> None:
    if "sequential" in parts:
        for size in sizes:
            async with opened(kind, seconds) as bench:
                print(f"-- {kind}, {size:,} rollouts stored")
                await sequential(bench, size)
    for part in (producers, waiting, million):
        if part.__name__ in parts:
            async with opened(kind, seconds) as bench:
                print(f"-- {kind}, {part.__name__}")
                await part(bench)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["sequential", "producers", "waiting"], help="what to measure")
    parser.add_argument("--store", default="file", help="memory, file, full, http, or the DSN of a PostgreSQL")
    parser.add_argument("--sizes", default="1000,50000", help="rollouts stored before measuring one by one")
    parser.add_argument("--seconds", type=float, default=1.0, help="the longest that one operation is measured")
    args = parser.parse_args()
    asyncio.run(main(args.parts, args.store, [int(size) for size in args.sizes.split(",")], args.seconds))
