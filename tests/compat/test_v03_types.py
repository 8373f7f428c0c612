"""Facts of v0.3's shared types that programs rely on; docs/compat.md lists them."""

from __future__ import annotations

import importlib
import threading
from typing import Any, get_args

import pytest
from opentelemetry.sdk.trace import ReadableSpan

import agentlightning as agl
from agentlightning import _compat
from agentlightning.emitter import get_rewards_from_span
from agentlightning.execution.events import ExecutionEvent, MultiprocessingEvent, ThreadingEvent
from agentlightning.types import (
    Event,
    Hook,
    Link,
    OtelResource,
    ParallelWorkerBase,
    Span,
    SpanAttributeNames,
    SpanContext,
    SpanCoreFields,
    SpanNames,
    TraceStatus,
    Triplet,
)
from agentlightning.types.attributes import extract_tags_from_attributes, query_linked_spans
from agentlightning.types.tracer import convert_timestamp

TOP_LEVEL = """
    Runner LitAgentRunner LitAgent rollout llm_rollout prompt_rollout Tracer OtelTracer AgentOpsTracer DummyTracer
    get_active_tracer set_active_tracer clear_active_tracer operation emit_reward emit_annotation emit_message
    emit_object emit_exception get_reward_value get_rewards_from_span get_message_value get_object_value is_reward_span
    find_reward_spans find_final_reward reward Adapter TraceAdapter OtelTraceAdapter TraceToTripletBase
    TracerTraceToTriplet LlmProxyTraceToTriplet TraceToMessages setup_logging setup_module_logging configure_logger
    APO algo Baseline FastAlgorithm Trainer LLMProxy build_component
""".split()
DEEPER = [
    ("agentlightning.tracer.weave", "WeaveTracer"),
    ("agentlightning.tracer.agentops", "AgentOpsTracer"),
    ("agentlightning.adapter.triplet", "TraceTree"),
    ("agentlightning.adapter.triplet", "RewardMatchPolicy"),
    ("agentlightning.adapter.triplet", "Transition"),
    ("agentlightning.litagent.decorator", "FunctionalLitAgent"),
    ("agentlightning.utils.otel", "make_link_attributes"),
    ("agentlightning.utils.otlp", "LightningStoreOTLPExporter"),
    ("agentlightning.utils.system_snapshot", "system_snapshot"),
    ("agentlightning.semconv", "LightningSpanAttributes"),
    ("agentlightning.utils.metrics", "MetricsBackend"),
    ("agentlightning.utils.metrics", "ConsoleMetricsBackend"),
    ("agentlightning.utils.metrics", "PrometheusMetricsBackend"),
    ("agentlightning.utils.metrics", "MultiMetricsBackend"),
    ("agentlightning.utils.id", "generate_id"),
    ("agentlightning.logging", "setup"),
    ("agentlightning.logging", "setup_module"),
    ("agentlightning.env_var", "LightningEnvVar"),
    ("agentlightning.algorithm.apo", "APO"),
    ("agentlightning.algorithm.utils", "batch_iter_over_dataset"),
    ("agentlightning.algorithm.utils", "with_store"),
    ("agentlightning.algorithm.utils", "with_llm_proxy"),
    ("agentlightning.trainer.init_utils", "load_class"),
]


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_names_of_the_top_level(name: str) -> None:
    assert callable(getattr(agl, name))


@pytest.mark.parametrize(("module", "name"), DEEPER)
def test_names_of_deeper_modules(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name) is not None


@pytest.mark.parametrize("name", sorted(_compat.ENDED_DEEPER))
def test_ended_names_of_deeper_modules_say_what_replaces_them(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    with pytest.raises(ImportError, match=f"{attribute} of v0.3 does not exist here; use "):
        getattr(importlib.import_module(module), attribute)


def test_the_words_of_modes_and_statuses() -> None:
    assert set(get_args(agl.RolloutMode)) == {"train", "val", "test"}
    attempts = {"preparing", "running", "failed", "succeeded", "unresponsive", "timeout"}
    assert set(get_args(agl.AttemptStatus)) == attempts
    rollouts = {"queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"}
    assert set(get_args(agl.RolloutStatus)) == rollouts


def test_a_triplet_needs_prompt_and_response() -> None:
    triplet = Triplet(prompt="p", response="r")
    assert (triplet.reward, triplet.metadata) == (None, {})


async def test_workers_and_hooks_do_nothing_by_themselves() -> None:
    worker = ParallelWorkerBase()
    assert worker.worker_id is None
    worker.init()
    worker.init_worker(3)
    assert worker.worker_id == 3
    worker.run()
    worker.teardown_worker(3)
    worker.teardown()
    hook: Any = Hook()
    await hook.on_rollout_start(agent=None, runner=None, rollout=None)
    await hook.on_trace_start(agent=None, runner=None, tracer=None, rollout=None)
    await hook.on_trace_end(agent=None, runner=None, tracer=None, rollout=None)
    await hook.on_rollout_end(agent=None, runner=None, rollout=None, spans=[])


@pytest.mark.parametrize("make", [ThreadingEvent, MultiprocessingEvent])
def test_an_event_is_set_waited_for_and_cleared(make: Any) -> None:
    event: ExecutionEvent = make()
    assert isinstance(event, ExecutionEvent)
    assert not event.is_set()
    assert not event.wait(0.0)
    thread = threading.Thread(target=event.set)
    thread.start()
    assert event.wait(10.0)
    thread.join()
    event.clear()
    assert not event.is_set()


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (SpanContext, "trace_id span_id is_remote trace_state"),
        (TraceStatus, "status_code description"),
        (Event, "name attributes timestamp"),
        (Link, "context attributes"),
        (OtelResource, "attributes schema_url"),
        (SpanCoreFields, "name status attributes start_time end_time"),
        (
            Span,
            "rollout_id attempt_id sequence_id trace_id span_id parent_id name status attributes events links "
            "start_time end_time context parent resource",
        ),
    ],
)
def test_spans_have_v03s_fields(model: Any, fields: str) -> None:
    assert list(model.model_fields)[: len(fields.split())] == fields.split()


@pytest.mark.parametrize(
    ("timestamp", "seconds"), [(None, None), (0, None), (12.5, 12.5), (1_700_000_000_500_000_000, 1_700_000_000.5)]
)
def test_timestamps_are_seconds_or_nanoseconds(timestamp: float | None, seconds: float | None) -> None:
    assert convert_timestamp(timestamp) == seconds


def test_a_span_without_context_has_zeros_as_ids() -> None:
    span = Span.from_opentelemetry(ReadableSpan("bare"), "ro-1", "at-1", 1)
    assert (span.trace_id, span.span_id, span.parent_id) == ("0" * 32, "0" * 16, None)


def test_readers_take_the_tuples_of_opentelemetry() -> None:
    recorded = ReadableSpan(
        "agentlightning.annotation",
        attributes={
            "agentlightning.tag.0": "x",
            "agentlightning.reward.0.name": "a",
            "agentlightning.reward.0.value": 1,
        },
    )
    assert extract_tags_from_attributes(recorded.attributes or {}) == ["x"]
    assert [each.value for each in get_rewards_from_span(recorded)] == [1.0]
    assert query_linked_spans([recorded], []) == [recorded]
    read = Span.from_opentelemetry(ReadableSpan("ids", attributes={"ids": (1, 2)}), "", "", 0)
    assert read.attributes == {"ids": [1, 2]}


def test_v03s_enums_of_names_are_there() -> None:
    assert SpanNames.REWARD.value == "agentlightning.reward"
    assert SpanNames.VIRTUAL.value == "agentlightning.virtual"
    assert SpanAttributeNames.MESSAGE.value == "message"
