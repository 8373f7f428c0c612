"""Four ways to write traces: in the process, into a store, with a stock OpenTelemetry exporter, and with v0.3's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

import agentlightning as agl
from agentlightning.semconv import LightningResourceAttributes
from agentlightning.tracer.otlp_exporter import LightningStoreOTLPExporter


def work(provider: trace.TracerProvider | None = None) -> None:
    """Do something that any OpenTelemetry program does: two spans, of which one is inside the other."""
    tracer = trace.get_tracer("bakery", tracer_provider=provider)
    with tracer.start_as_current_span("bake", attributes={"bread": "rye"}), tracer.start_as_current_span("knead"):
        pass


async def local(_store: agl.LightningStore) -> list[str]:
    """Trace without any store: the spans are read from the tracer."""
    tracer = agl.OtelTracer()
    with tracer.lifespan():
        async with tracer.trace_context("by hand"):
            work()
            agl.emit_reward(1.0)
        return [span.name for span in tracer.get_last_trace()]


async def into_a_store(store: agl.LightningStore) -> list[str]:
    """Trace into a store, in this process or behind a `LightningStoreClient`."""
    tracer = agl.OtelTracer()
    started = await store.start_rollout({"bread": "rye"})
    with tracer.lifespan(store):
        rollout_id, attempt_id = started.rollout_id, started.attempt.attempt_id
        async with tracer.trace_context("by hand", rollout_id=rollout_id, attempt_id=attempt_id):
            work()
            agl.emit_reward(1.0)
    return await finish(store, started)


async def with_a_stock_exporter(store: agl.LightningStore) -> list[str]:
    """Send spans to the store's server as to any collector; the resource says whose they are."""
    started = await store.start_rollout({"bread": "rye"})
    whose = {
        LightningResourceAttributes.ROLLOUT_ID.value: started.rollout_id,
        LightningResourceAttributes.ATTEMPT_ID.value: started.attempt.attempt_id,
    }
    provider = TracerProvider(resource=Resource(whose))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=store.otlp_traces_endpoint())))
    work(provider)
    await asyncio.to_thread(provider.shutdown)
    return await finish(store, started)


async def with_v03s_exporter(store: agl.LightningStore) -> list[str]:
    """Use one exporter for many attempts: it is turned to each for as long as that lasts."""
    started = await store.start_rollout({"bread": "rye"})
    exporter, provider = LightningStoreOTLPExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    exporter.enable_store_otlp(store.otlp_traces_endpoint(), started.rollout_id, started.attempt.attempt_id)
    await asyncio.to_thread(work, provider)
    exporter.disable_store_otlp()
    work(provider)  # goes nowhere
    await asyncio.to_thread(provider.shutdown)
    return await finish(store, started)


async def finish(store: agl.LightningStore, started: agl.AttemptedRollout) -> list[str]:
    """End the attempt, and return what the store has of it."""
    await store.update_attempt(started.rollout_id, started.attempt.attempt_id, status="succeeded")
    return [span.name for span in await store.query_spans(started.rollout_id)]


WAYS: dict[str, Callable[[agl.LightningStore], Awaitable[list[str]]]] = {
    "local": local,
    "store": into_a_store,
    "otlp": with_a_stock_exporter,
    "v0.3": with_v03s_exporter,
}


async def main(way: str, address: str | None = None) -> list[str]:
    """Write a trace; without the address of a store's server, one is started for the moment."""
    if address is not None:
        async with agl.LightningStoreClient(address) as client:
            return await WAYS[way](client)
    inner = agl.InMemoryLightningStore()
    server = agl.LightningStoreServer(inner, port=0)
    await server.start()
    try:
        return await WAYS[way](server)
    finally:
        await server.stop()
        await inner.close()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in WAYS:
        sys.exit(f"usage: python {sys.argv[0]} {'|'.join(WAYS)} [STORE]")
    print(*asyncio.run(main(*sys.argv[1:])), sep="\n")
