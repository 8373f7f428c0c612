"""Types as they travel: the JSON, texts and URLs that programs and other services rely on."""

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource as SdkResource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Status, StatusCode
from pydantic import TypeAdapter, ValidationError

from agentlightning.types import (
    LLM,
    Attempt,
    AttemptedRollout,
    NamedResources,
    PaginatedResult,
    PromptTemplate,
    ProxyLLM,
    Rollout,
    RolloutConfig,
    Span,
    SpanCoreFields,
    TraceStatus,
    Worker,
)

ATTEMPT = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=2.0)


def test_rollout_json_keeps_nulls() -> None:
    config = {"timeout_seconds": None, "unresponsive_seconds": None, "max_attempts": 1, "retry_condition": []}
    rollout: dict[str, Any] = {
        "rollout_id": "ro-1",
        "input": {"x": 1},
        "start_time": 1.0,
        "end_time": None,
        "mode": None,
        "resources_id": None,
        "status": "queuing",
        "config": config,
        "metadata": None,
    }
    attempt = {
        "rollout_id": "ro-1",
        "attempt_id": "at-1",
        "sequence_id": 1,
        "start_time": 2.0,
        "end_time": None,
        "status": "preparing",
        "worker_id": None,
        "last_heartbeat_time": None,
        "metadata": None,
    }
    assert Rollout(rollout_id="ro-1", input={"x": 1}, start_time=1.0).model_dump(mode="json") == rollout
    attempted = AttemptedRollout(rollout_id="ro-1", input={"x": 1}, start_time=1.0, attempt=ATTEMPT)
    assert attempted.model_dump(mode="json") == {**rollout, "attempt": attempt}


def test_an_attempt_of_another_rollout_is_refused() -> None:
    with pytest.raises(ValidationError, match="belongs to rollout ro-1"):
        AttemptedRollout(rollout_id="ro-2", input=None, start_time=1.0, attempt=ATTEMPT)


def test_a_rollout_has_at_least_one_attempt() -> None:
    with pytest.raises(ValidationError):
        RolloutConfig(max_attempts=0)


def test_a_new_worker_is_unknown() -> None:
    assert set(Worker(worker_id="w").model_dump(exclude_none=True).items()) == {
        ("worker_id", "w"),
        ("status", "unknown"),
    }


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (PaginatedResult(items=[1, 2], limit=2, offset=4, total=9), "<PaginatedResult (4:6 of 9) [1, ...]>"),
        (PaginatedResult(items=["a"], limit=-1, offset=0, total=1), "<PaginatedResult (0: of 1) ['a', ...]>"),
        (PaginatedResult(items=[], limit=5, offset=10, total=3), "<PaginatedResult (10:15 of 3) empty>"),
    ],
)
def test_a_page_is_a_sequence_that_shows_where_it_stands(page: PaginatedResult[Any], text: str) -> None:
    assert repr(page) == text
    assert list(page) == list(page.items)
    assert len(page) == len(page.items)
    assert page[:1] == page.items[:1]
    assert page.model_dump(mode="json") == {
        "items": page.items,
        "limit": page.limit,
        "offset": page.offset,
        "total": page.total,
    }


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://h:1/v1", "http://h:1/rollout/r/attempt/a/v1"),
        ("http://h:1/v1/", "http://h:1/rollout/r/attempt/a/v1"),
        ("http://h:1", "http://h:1/rollout/r/attempt/a"),
        ("http://h:1/", "http://h:1/rollout/r/attempt/a"),
        ("http://h:1/x/v1", "http://h:1/x/rollout/r/attempt/a/v1"),
    ],
)
def test_a_proxied_model_names_the_attempt_in_its_url(endpoint: str, url: str) -> None:
    llm = ProxyLLM(endpoint=endpoint, model="m", api_key="k", sampling_parameters={"temperature": 0.5})
    assert llm.get_base_url("r", "a") == url
    assert llm.get_base_url() == endpoint
    with pytest.raises(ValueError, match="must be strings or all be empty"):
        llm.get_base_url("r")
    attempted = AttemptedRollout(rollout_id="ro-1", input=None, start_time=1.0, attempt=ATTEMPT)
    baked = llm.with_attempted_rollout(attempted)
    assert type(baked) is LLM
    assert baked.endpoint == llm.get_base_url("ro-1", "at-1")
    assert (baked.model, baked.api_key, baked.sampling_parameters) == ("m", "k", {"temperature": 0.5})


def test_resources_are_told_apart_by_their_type() -> None:
    adapter = TypeAdapter[NamedResources](NamedResources)
    resources: NamedResources = {
        "a": LLM(endpoint="e", model="m"),
        "b": ProxyLLM(endpoint="e", model="m"),
        "c": PromptTemplate(template="{x}", engine="jinja"),
    }
    read = adapter.validate_json(adapter.dump_json(resources))
    assert read == resources
    assert [type(item) for item in read.values()] == [LLM, ProxyLLM, PromptTemplate]
    with pytest.raises(ValidationError):
        adapter.validate_python({"x": {"resource_type": "something"}})


def test_prompt_templates_are_filled_by_their_engine() -> None:
    assert PromptTemplate(template="{x}!", engine="f-string").format(x=1) == "1!"
    assert PromptTemplate(template="{{ x }}!", engine="jinja").format(x=1) == "1!"
    with pytest.raises(NotImplementedError):
        PromptTemplate(template="", engine="poml").format()


def test_span_from_attributes_fills_what_is_missing() -> None:
    span = Span.from_attributes(attributes={"a": 1}, parent_id="ab" * 8)
    assert (span.rollout_id, span.attempt_id, span.sequence_id) == ("", "", 0)
    assert (len(span.trace_id), len(span.span_id)) == (32, 16)
    assert (span.name, span.status.status_code) == ("agentlightning.virtual", "OK")
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (span.trace_id, "ab" * 8)
    assert span.start_time is None
    assert span.end_time is None


def test_span_from_core_fields_starts_now_unless_it_says_when() -> None:
    core = SpanCoreFields(
        name="n", status=TraceStatus(status_code="ERROR"), attributes={}, start_time=None, end_time=5.0
    )
    span = Span.from_core_fields(core, rollout_id="r", attempt_id="a", sequence_id=3)
    assert (span.rollout_id, span.attempt_id, span.sequence_id, span.end_time) == ("r", "a", 3, 5.0)
    assert span.start_time is not None
    assert Span.from_core_fields(core.model_copy(update={"start_time": 4.0})).start_time == 4.0


def test_spans_keep_unknown_keys() -> None:
    values = {**Span.from_attributes(attributes={}).model_dump(), "kind": "CLIENT"}
    assert Span.model_validate(values).model_dump()["kind"] == "CLIENT"


def test_span_from_opentelemetry_keeps_what_the_sdk_knows() -> None:
    provider = TracerProvider(resource=SdkResource({"service.name": "agent"}, "http://schema"), shutdown_on_exit=False)
    tracer = provider.get_tracer("scope", "1.0")
    with tracer.start_as_current_span("parent", start_time=5) as parent:
        link = trace.Link(parent.get_span_context(), {"why": "because"})
        child = tracer.start_span("child", attributes={"ids": [1, 2]}, links=[link], start_time=1_500_000_001)
        child.add_event("happened", {"x": True}, timestamp=1_600_000_000)
        child.set_status(Status(StatusCode.ERROR, "broken"))
        child.end(2_000_000_000)
    span = Span.from_opentelemetry(child, "ro-1", "at-1", 7)  # pyright: ignore[reportArgumentType]
    assert (span.rollout_id, span.attempt_id, span.sequence_id, span.name) == ("ro-1", "at-1", 7, "child")
    assert (span.start_time_ns, span.end_time_ns, span.end_time) == (1_500_000_001, 2_000_000_000, 2.0)
    assert (span.status.status_code, span.status.description) == ("ERROR", "broken")
    assert span.attributes == {"ids": [1, 2]}
    assert (span.events[0].name, span.events[0].attributes, span.events[0].timestamp) == ("happened", {"x": True}, 1.6)
    assert span.links[0].attributes == {"why": "because"}
    assert span.parent is not None
    assert span.parent_id == span.parent.span_id == span.links[0].context.span_id
    assert span.resource.attributes == {"service.name": "agent"}
    assert span.resource.schema_url == "http://schema"
    extra = span.model_extra
    assert extra == {"kind": "INTERNAL", "instrumentation_scope": {"name": "scope", "version": "1.0"}}
    assert Span.model_validate_json(span.model_dump_json()) == span


@pytest.mark.parametrize("name", ["timeout_seconds", "unresponsive_seconds"])
def test_no_deadline_is_nan_or_negative(name: str) -> None:
    for seconds in (float("nan"), -1, -1e-9, float("-inf")):
        with pytest.raises(ValueError, match="give None for no limit"):
            RolloutConfig.model_validate({name: seconds})
    assert getattr(RolloutConfig.model_validate({name: 0}), name) == 0
