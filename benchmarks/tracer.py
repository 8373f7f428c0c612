"""What tracing costs an agent's event loop: spans per second, and the longest time for which it holds the loop up.

200 rollouts run at once in one process. Each opens a trace and records 20 spans of some size, which are open for as
long as a model takes: 200 ms, or 5 ms, which is more than one processor can do. Garbage collections are of everything
the program holds, not of tracing alone, and can fall into any callback: the longest callback is given without and with
those in it. The same load under `DummyTracer`, which writes as many spans without OpenTelemetry, says whose they are.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
from asyncio.events import Handle
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentlightning.store import (
    InMemoryLightningStore,
    LightningStore,
    LightningStoreClient,
    LightningStoreServer,
    SqliteLightningStore,
)
from agentlightning.tracer import DummyTracer, OtelTracer, Tracer
from agentlightning.types import AttemptedRollout

ROLLOUTS = 200
SPANS = 20


@dataclass
class Loop:
    """CPU seconds of single callbacks without and with the collections in them, of those, and how late timers were."""

    longest: float = 0.0
    culprit: str = ""
    longest_with: float = 0.0
    collecting: float = 0.0
    longest_collection: float = 0.0
    late: list[float] = field(default_factory=list)


@contextmanager
def watching() -> Generator[Loop]:
    found, run, since, own = Loop(), Handle._run, 0.0, threading.get_ident()

    def timed(handle: Handle) -> None:
        started, collecting = time.thread_time(), found.collecting
        run(handle)
        held = time.thread_time() - started
        found.longest_with = max(found.longest_with, held)
        took = held - (found.collecting - collecting)
        if took > found.longest:
            found.longest, found.culprit = took, repr(handle)[:100]

    def collected(phase: str, info: dict[str, int]) -> None:
        nonlocal since
        if phase == "start":
            since = time.thread_time()
            return
        took = time.thread_time() - since
        found.longest_collection = max(found.longest_collection, took)  # a store's thread holds the loop up, too
        if threading.get_ident() == own:
            found.collecting += took

    Handle._run = timed
    gc.callbacks.append(collected)
    try:
        yield found
    finally:
        gc.callbacks.remove(collected)
        Handle._run = run


async def tick(found: Loop) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.002)
        found.late.append(time.perf_counter() - before - 0.002)


async def agent(tracer: Tracer, rollout: AttemptedRollout, attributes: dict[str, Any], latency: float) -> None:
    await asyncio.sleep(random.uniform(0, latency))
    async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
        for _ in range(SPANS):
            with tracer.operation_context("call", attributes):
                await asyncio.sleep(latency)


async def measure(tracer: Tracer, store: LightningStore, text: str, latency: float) -> None:
    tracer.init_worker(0, store)
    rollouts = [await store.start_rollout(input=i) for i in range(ROLLOUTS)]
    attributes = {f"llm.input_messages.{i}.message.content": text for i in range(20)}
    gc.collect()
    gc.freeze()
    with watching() as found:
        ticking = asyncio.create_task(tick(found))
        wall, cpu = time.perf_counter(), time.thread_time()
        await asyncio.gather(*(agent(tracer, rollout, attributes, latency) for rollout in rollouts))
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        ticking.cancel()
    spans = ROLLOUTS * SPANS
    late = sorted(found.late)
    print(
        f"{spans / wall:6.0f} spans/s, {1e6 * cpu / spans:4.0f} µs of the loop a span; longest callback "
        f"{1e3 * found.longest:4.1f} ms, with collections {1e3 * found.longest_with:4.1f} ms, collection "
        f"{1e3 * found.longest_collection:4.1f} ms; timers late by "
        f"{1e3 * late[len(late) // 2]:4.1f} ms (median), {1e3 * late[len(late) * 99 // 100]:4.1f} ms (99 %)   "
        f"{found.culprit if '-v' in sys.argv else ''}",
        flush=True,
    )


async def in_memory(tracer: Tracer, text: str, latency: float) -> None:
    store = InMemoryLightningStore()
    await measure(tracer, store, text, latency)
    await store.close()


async def in_a_file(tracer: Tracer, text: str, latency: float) -> None:
    with TemporaryDirectory() as folder:
        store = SqliteLightningStore(Path(folder) / "store.db")
        await measure(tracer, store, text, latency)
        await store.close()


async def over_http(tracer: Tracer, text: str, latency: float) -> None:
    """The server has a process of its own, whose garbage is not ours."""
    line, there = Pipe()
    process = get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    client = LightningStoreClient(await asyncio.to_thread(line.recv))
    await measure(tracer, client, text, latency)
    await client.close()
    line.send("enough")
    await asyncio.to_thread(process.join)


def serve(line: Connection) -> None:
    async def work() -> None:
        store = InMemoryLightningStore()
        server = LightningStoreServer(store, host="127.0.0.1", port=0)
        await server.start()
        line.send(server.endpoint)
        await asyncio.to_thread(line.recv)
        await server.stop()
        await store.close()

    asyncio.run(work())


def main() -> None:
    kinds: dict[str, Callable[[Tracer, str, float], Any]] = {"memory": in_memory, "file": in_a_file, "HTTP": over_http}
    for size, text in (("20 short messages", "short"), ("20 messages of 1 KB", "x" * 1000)):
        for latency in (0.2, 0.005):
            for kind, run in kinds.items():
                for tracer in (DummyTracer(), OtelTracer(instrument=None)):
                    name = type(tracer).__name__
                    print(f"{kind:6}, {size:19}, {1e3 * latency:3.0f} ms, {name:11}: ", end="", flush=True)
                    asyncio.run(run(tracer, text, latency))


if __name__ == "__main__":
    main()
