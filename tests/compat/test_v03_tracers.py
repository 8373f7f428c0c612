"""Facts of v0.3's tracers that programs rely on; docs/compat.md lists them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import DummyTracer, OtelTracer, Tracer, get_active_tracer
from agentlightning.tracer.otlp_exporter import LightningStoreOTLPExporter
from agentlightning.types import TraceStatus
from tests.compat.signatures import takes

TRACERS = [OtelTracer, DummyTracer]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (Tracer.init_worker, "worker_id, store=None"),
        (Tracer.trace_context, "name=None, store=None, rollout_id=None, attempt_id=None"),
        (Tracer.create_span, "name, attributes=None, timestamp=None, status=None"),
        (Tracer.operation_context, "name, attributes=None, start_time=None, end_time=None"),
        (Tracer.lifespan, "store=None"),
        (LightningStoreOTLPExporter.enable_store_otlp, "endpoint, rollout_id, attempt_id"),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_signatures_are_those_of_v03(function: Any, expected: str) -> None:
    assert takes(function, expected)


@pytest.mark.parametrize("kind", TRACERS)
async def test_an_instant_keeps_its_name_attributes_time_and_status(kind: type[Tracer]) -> None:
    tracer = kind()
    status = TraceStatus(status_code="ERROR", description="why")
    async with tracer.trace_context("test"):
        core = tracer.create_span("one", {"a": 1}, timestamp=12.5, status=status)
        plain = tracer.create_span("two")
    first, second = tracer.get_last_trace()
    assert (core.name, core.attributes, core.start_time, core.end_time, core.status) == (
        first.name,
        first.attributes,
        first.start_time,
        first.end_time,
        first.status,
    )
    assert (first.start_time, first.end_time, first.status) == (12.5, 12.5, status)
    assert plain.status == second.status == TraceStatus(status_code="OK" if kind is DummyTracer else "UNSET")


@pytest.mark.parametrize("kind", TRACERS)
async def test_an_operation_records_attributes_status_and_errors(kind: type[Tracer]) -> None:
    tracer = kind()
    async with tracer.trace_context("test"):
        with tracer.operation_context("fine", {"a": 1}) as recording:
            recording.record_attributes({"b": 2})
            recording.record_status("OK")
        with pytest.raises(KeyError), tracer.operation_context("broken"):
            raise KeyError("x")
    fine, broken = tracer.get_last_trace()
    assert (fine.attributes, fine.status.status_code) == ({"a": 1, "b": 2}, "OK")
    assert recording.get_recorded_span().attributes == fine.attributes
    assert (broken.status.status_code, broken.status.description) == ("ERROR", "KeyError: 'x'")
    told = [broken.attributes, *(event.attributes for event in broken.events)]
    assert [attributes["exception.type"] for attributes in told if attributes] == ["KeyError"]


@pytest.mark.parametrize("kind", TRACERS)
async def test_the_tracer_is_active_inside_its_trace_only(kind: type[Tracer]) -> None:
    tracer = kind()
    async with tracer.trace_context("test"):
        assert get_active_tracer() is tracer
    assert get_active_tracer() is None
    with pytest.raises(KeyError):
        async with tracer.trace_context("test"):
            raise KeyError
    assert get_active_tracer() is None


def test_an_instant_of_the_dummy_is_now_and_ok() -> None:
    before = time.time()
    core = DummyTracer().create_span("now")
    assert core.status.status_code == "OK"
    assert before <= (core.start_time or 0) == (core.end_time or 0) <= time.time()


def test_what_the_dummy_records_is_read_afterwards() -> None:
    with DummyTracer().operation_context("block") as recording, pytest.raises(ValueError, match="not ended"):
        recording.get_recorded_span()
    assert recording.get_recorded_span().name == "block"


@pytest.mark.parametrize("kind", TRACERS)
async def test_a_trace_has_no_root_span(kind: type[Tracer]) -> None:
    tracer = kind()  # which was not set up for a worker: a local trace needs none
    async with tracer.trace_context("test"):
        pass
    assert tracer.get_last_trace() == []


@pytest.mark.parametrize("kind", TRACERS)
async def test_a_trace_without_ids_is_local_also_with_a_store(kind: type[Tracer]) -> None:
    store, tracer = InMemoryLightningStore(), kind()
    with tracer.lifespan(store):
        async with tracer.trace_context("test"):
            tracer.create_span("here")
        assert [span.name for span in tracer.get_last_trace()] == ["here"]
        assert len(await store.query_rollouts()) == 0
    await store.close()


def test_a_foreign_provider_is_joined() -> None:
    code = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from agentlightning.tracer import OtelTracer

trace.set_tracer_provider(provider := TracerProvider())

async def main():
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        trace.get_tracer("a library").start_span("call").end()
        tracer.create_span("own")
    assert trace.get_tracer_provider() is provider
    print(*sorted(span.name for span in tracer.get_last_trace()))

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["call", "own"]


def test_the_exporter_sends_only_while_it_is_enabled() -> None:
    exporter = LightningStoreOTLPExporter(timeout=1)
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("call")
    span.end()
    assert isinstance(span, ReadableSpan)
    assert exporter.should_bypass()
    assert exporter.export([span]) is SpanExportResult.SUCCESS  # to nobody
    with socket.socket() as nobody:  # bound, but it does not listen
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/traces"
        exporter.enable_store_otlp(endpoint, "ro-1", "at-1")
        assert (exporter.endpoint, exporter.rollout_id, exporter.attempt_id) == (endpoint, "ro-1", "at-1")
        assert exporter.export([span]) is SpanExportResult.FAILURE
    exporter.disable_store_otlp()
    assert (exporter.endpoint, exporter.rollout_id, exporter.attempt_id) == (None, None, None)
    assert exporter.export([span]) is SpanExportResult.SUCCESS
    exporter.shutdown()
