from __future__ import annotations

import contextvars
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from agentlightning.emitter import (
    emit_annotation,
    emit_exception,
    emit_message,
    emit_object,
    emit_reward,
    find_final_reward,
    find_reward_spans,
    get_message_value,
    get_object_value,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
    operation,
    reward,
)
from agentlightning.errors import ConfigurationError, InvalidResult, NoActiveTracer
from agentlightning.tracer import DummyTracer, OtelTracer, Tracer, dropped_spans
from agentlightning.types import Span, SpanCoreFields
from agentlightning.types.attributes import extract_tags_from_attributes, make_tag_attributes

finite = st.floats(allow_nan=False, allow_infinity=False)


def as_span(core: SpanCoreFields) -> Span:
    return Span.from_core_fields(core)


async def emitted(emit: Callable[[], object], tracer: Tracer | None = None) -> list[Span]:
    tracer = tracer or OtelTracer()
    async with tracer.trace_context("test"):
        emit()
    return tracer.get_last_trace()


@settings(deadline=None)
@given(finite)
def test_a_number_reads_back_as_the_reward(value: float) -> None:
    span = as_span(emit_reward(value))
    assert get_reward_value(span) == value
    assert [(item.name, item.value) for item in get_rewards_from_span(span)] == [("primary", value)]


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), finite, min_size=1), st.data())
def test_the_primary_dimension_comes_first(rewards: dict[str, float], data: st.DataObject) -> None:
    primary = data.draw(st.sampled_from(list(rewards)))
    found = {
        item.name: item.value for item in get_rewards_from_span(as_span(emit_reward(rewards, primary_key=primary)))
    }
    assert found == rewards
    assert list(found) == [primary, *(name for name in rewards if name != primary)]


@pytest.mark.parametrize("value", [1, True, np.float32(1), np.int64(1), np.array(1.0)])
def test_any_kind_of_number_is_a_reward(value: float) -> None:
    assert get_reward_value(as_span(emit_reward(value))) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
@pytest.mark.parametrize("kind", [TypeError, ValueError, InvalidResult])
def test_rewards_are_finite(value: float, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="return a finite number"):
        emit_reward(value)
    with pytest.raises(kind, match="return a finite number"):
        emit_reward({"a": value}, primary_key="a")


def test_malformed_rewards_are_refused() -> None:
    with pytest.raises(TypeError, match="not a str"):
        emit_reward("much")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="primary_key"):
        emit_reward({"a": 1.0})
    with pytest.raises(ValueError, match="primary_key"):
        emit_reward({"a": 1.0}, primary_key="b")
    with pytest.raises(TypeError, match="texts as names"):
        emit_reward({"a": 1.0, 2: 1.0}, primary_key="a")  # type: ignore[dict-item]


def test_a_reward_carries_more_attributes() -> None:
    span = emit_reward(1.0, attributes={"a": {"b": 1}, **make_tag_attributes(["x"])})
    assert span.attributes["a.b"] == 1
    assert extract_tags_from_attributes(span.attributes) == ["x"]


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        ("x", {"agentops.task.output": '{"type": "reward", "value": 0.5}'}, 0.5),
        ("x", {"agentops.entity.output": '{"type": "reward", "value": 2}'}, 2.0),
        ("x", {"agentops.task.output": "no json"}, None),
        ("agentlightning.annotation", {"reward": 1}, 1.0),
        ("x", {"reward": 1}, None),
        ("x", {"agentlightning.reward": 1}, None),
        ("x", {"agentlightning.rewards.0.value": 1}, None),
        ("x", {"agentlightning.reward.0.value": "much"}, None),
        ("x", {"agentlightning.reward.0.name": "a", "agentlightning.reward.0.value": math.nan}, None),
        ("x", {"agentlightning.reward.1.name": "a", "agentlightning.reward.1.value": 1.0}, None),
        ("x", {"agentops.task.output": '{"type": "reward", "value": null}'}, None),
        ("x", {"agentops.task.output": '{"type": "reward", "value": 1' + "0" * 400 + "}"}, None),
        ("x", {"agentops.task.output": '{"type": "reward", "value": NaN}'}, None),
        ("x", {"agentops.task.output": "[" * 100_000}, None),
        ("agentlightning.annotation", {"reward": math.inf}, None),
        ("agentlightning.annotation", {"reward": "much"}, None),
    ],
)
def test_older_and_foreign_encodings(name: str, attributes: dict[str, object], expected: float | None) -> None:
    span = Span.from_attributes(attributes=attributes, name=name)  # type: ignore[arg-type]
    assert get_reward_value(span) == expected
    assert is_reward_span(span) == (expected is not None)


def test_the_final_reward_is_the_last() -> None:
    spans = [as_span(emit_reward(1.0)), as_span(emit_annotation({"a": 1})), as_span(emit_reward(2.0))]
    assert find_final_reward(spans) == 2.0
    assert find_reward_spans(spans) == [spans[0], spans[2]]
    assert find_final_reward([]) is None


async def test_the_reward_decorator_emits_what_a_function_returns() -> None:
    def score() -> float:
        return 0.5

    async def score_later() -> float:
        return 0.25

    with pytest.deprecated_call(match="emit_reward"):
        score = reward(score)
    with pytest.deprecated_call(match="emit_reward"):
        score_later = reward(score_later)
    assert find_final_reward(await emitted(score)) == 0.5
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        assert await score_later() == 0.25
    assert find_final_reward(tracer.get_last_trace()) == 0.25


@pytest.mark.parametrize("value", ["x", 1, 2.5, True, False, b"\x00\xff", {"a": [1, None]}, [1, "x"], None])
async def test_an_object_reads_back(value: object) -> None:
    (span,) = await emitted(lambda: emit_object(value, {"more": {"a": 1}}))
    found = get_object_value(span)
    assert (found, type(found)) == (value, type(value))
    assert span.attributes["more.a"] == 1


def test_objects_need_a_json_form() -> None:
    with pytest.raises(RuntimeError, match="a int has no JSON form"):
        emit_object(10**5000)
    with pytest.raises(RuntimeError, match="no JSON form"):
        emit_object({1, 2})
    assert get_object_value(as_span(emit_annotation({"a": 1}))) is None


@pytest.mark.parametrize("tracer", [OtelTracer(), DummyTracer()])
async def test_a_message_reads_back(tracer: Tracer) -> None:
    (span,) = await emitted(lambda: emit_message("hello", {"a": 1}), tracer)
    assert get_message_value(span) == "hello"
    assert get_message_value(Span.from_attributes(attributes={"a": 1}, name=span.name)) is None
    assert span.status.status_code == "OK"
    with pytest.raises(TypeError, match="emit_object"):
        emit_message(1)  # type: ignore[arg-type]


async def test_an_exception_is_emitted_with_its_trace() -> None:
    (span,) = await emitted(lambda: emit_exception(KeyError("x")))
    assert (span.name, span.attributes["exception.type"]) == ("agentlightning.exception", "KeyError")
    with pytest.raises(TypeError, match="expected an exception"):
        emit_exception("x")  # type: ignore[arg-type]


KEYS = st.sampled_from(
    [
        "agentlightning.reward",
        "agentlightning.reward.0",
        "agentlightning.reward.0.value",
        "agentlightning.reward.0.name",
        "agentlightning.rewards.0.value",
        "agentlightning.message.body",
        "agentlightning.object.type",
        "agentlightning.object.literal",
        "agentlightning.object.json",
        "agentops.task.output",
        "agentops.entity.output",
        "reward",
    ]
)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["int", "bytes", "é", "9" * 5000, "[" * 100_000, '{"type": "reward", "value": [1]}'])
    | st.lists(st.integers(), max_size=2)
    | st.just({"type": "reward", "value": "x"})
)


@settings(deadline=None)
@given(st.dictionaries(KEYS, VALUES), st.sampled_from(["agentlightning.annotation", "x"]))
def test_readers_never_raise(attributes: dict[str, Any], name: str) -> None:
    span = Span.from_attributes(attributes={}, name=name)
    span.attributes = attributes
    value = get_reward_value(span)
    assert value is None or math.isfinite(value)
    assert is_reward_span(span) == (value is not None)
    assert isinstance(get_rewards_from_span(span), list)
    assert isinstance(get_message_value(span), str | None)
    get_object_value(span)


@pytest.mark.parametrize(
    ("attributes", "read"),
    [
        ({"agentlightning.message.body": 1}, get_message_value),
        ({"agentlightning.object.type": "complex", "agentlightning.object.literal": "1j"}, get_object_value),
        ({"agentlightning.object.json": "{"}, get_object_value),
    ],
)
def test_what_cannot_be_read_is_logged_and_is_none(
    attributes: dict[str, Any], read: Callable[[Span], object], caplog: pytest.LogCaptureFixture
) -> None:
    assert read(Span.from_attributes(attributes=attributes)) is None
    assert "Ignored" in caplog.text


async def test_a_number_of_a_subclass_reads_back_as_a_plain_one() -> None:
    (span,) = await emitted(lambda: emit_object(np.float64(0.5)))
    assert get_object_value(span) == 0.5


def test_annotations_hold_primitives() -> None:
    assert emit_annotation({"a": {"b": [1, 2]}}).attributes == {"a.b": [1, 2]}
    with pytest.raises(ValueError, match="holds a set"):
        emit_annotation({"a": {1}})
    own: dict[str, Any] = {}
    own["own"] = own
    with pytest.raises(ValueError, match="contain themselves"):
        emit_annotation(own)


EMITTERS: dict[str, Callable[[], object]] = {
    "annotation": lambda: emit_annotation({"a": 1}),
    "reward": lambda: emit_reward(1.0),
    "message": lambda: emit_message("x"),
    "object": lambda: emit_object(1),
    "exception": lambda: emit_exception(KeyError()),
    "operation": lambda: operation(len)([]),
}


@pytest.mark.parametrize("emit", EMITTERS.values(), ids=EMITTERS)
async def test_outside_of_a_trace_nothing_is_recorded_unless_that_is_made_an_error(
    emit: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    emit()
    monkeypatch.setenv("AGL_EMITTER_STRICT", "1")
    with pytest.raises(NoActiveTracer, match="AGL_EMITTER_STRICT"):
        emit()
    with pytest.raises(RuntimeError):  # what v0.3 raises
        emit()
    assert len(await emitted(emit)) == 1


@pytest.mark.parametrize("emit", EMITTERS.values(), ids=EMITTERS)
async def test_where_the_context_is_lost_the_only_open_trace_takes_it(emit: Callable[[], object]) -> None:
    assert len(await emitted(lambda: contextvars.Context().run(emit))) == 1


async def test_where_the_context_is_lost_and_several_traces_are_open_it_is_counted_as_dropped() -> None:
    before = Counter(dropped_spans())
    first, second = OtelTracer(), OtelTracer()
    async with first.trace_context("one"), second.trace_context("two"):
        contextvars.Context().run(emit_reward, 1.0)
    assert first.get_last_trace() == second.get_last_trace() == []
    assert Counter(dropped_spans()) - before == {"agentlightning.annotation": 1}


async def test_what_is_redacted_is_redacted_where_the_context_is_lost() -> None:
    tracer = OtelTracer()
    tracer.redact = lambda key, value: "***"
    (span,) = await emitted(lambda: contextvars.Context().run(operation(str.upper), "secret"), tracer)
    assert span.attributes["agentlightning.operation.output"] == "***"


def test_a_strictness_that_is_no_word_for_yes_or_no_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("", "0", "false", "OFF"):
        monkeypatch.setenv("AGL_EMITTER_STRICT", word)
        emit_reward(1.0)
    monkeypatch.setenv("AGL_EMITTER_STRICT", "perhaps")
    with pytest.raises(ConfigurationError, match="perhaps"):
        emit_reward(1.0)
    emit_reward(1.0, propagate=False)


async def test_without_propagation_nothing_is_recorded() -> None:
    def emit() -> None:
        emit_reward(1.0, propagate=False)
        emit_message("x", propagate=False)
        emit_object(1, propagate=False)
        emit_exception(KeyError(), propagate=False)

    for tracer in (OtelTracer(), DummyTracer()):
        assert await emitted(emit, tracer) == []
