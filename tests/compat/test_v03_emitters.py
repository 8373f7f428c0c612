"""Facts of v0.3's emitters and semantic conventions that programs rely on; docs/compat.md lists them."""

from __future__ import annotations

import base64
import importlib
from typing import Any

import pytest

from agentlightning import semconv
from agentlightning.emitter import (
    OperationContext,
    emit_annotation,
    emit_exception,
    emit_message,
    emit_object,
    emit_reward,
    operation,
)
from agentlightning.semconv import (
    LightningResourceAttributes as Resource,
    LightningSpanAttributes as Key,
    LinkAttributes,
    LinkPydanticModel,
    RewardAttributes,
    RewardPydanticModel,
)
from agentlightning.tracer import OtelTracer
from agentlightning.types import Span
from agentlightning.types.attributes import full_qualified_name, make_link_attributes, make_tag_attributes
from tests.compat.signatures import takes

HELPERS = """
    flatten_attributes unflatten_attributes filter_attributes filter_and_unflatten_attributes sanitize_attribute_value
    sanitize_attributes sanitize_list_attribute_sanity check_attributes_sanity make_tag_attributes
    extract_tags_from_attributes make_link_attributes extract_links_from_attributes query_linked_spans
    format_exception_attributes full_qualified_name get_tracer_provider get_tracer
""".split()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (operation, "fn=None, propagate=True, name=None"),
        (emit_reward, "reward, primary_key=None, attributes=None, propagate=True"),
        (emit_message, "message, attributes=None, propagate=True"),
        (emit_object, "object, attributes=None, propagate=True"),
        (emit_exception, "exception, attributes=None, propagate=True"),
        (emit_annotation, "annotation, propagate=True"),
        (OperationContext, "name, attributes, propagate=True"),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_signatures_are_those_of_v03(function: Any, expected: str) -> None:
    assert takes(function, expected)


def test_span_names_are_those_of_v03() -> None:
    kinds = ("annotation", "message", "object", "exception", "operation", "reward", "virtual")
    assert {kind: getattr(semconv, f"AGL_{kind.upper()}") for kind in kinds} == {
        kind: f"agentlightning.{kind}" for kind in kinds
    }


def test_keys_are_those_of_v03() -> None:
    assert {member.name: member.value for member in Resource} == {
        "ROLLOUT_ID": "agentlightning.rollout_id",
        "ATTEMPT_ID": "agentlightning.attempt_id",
        "SPAN_SEQUENCE_ID": "agentlightning.span_sequence_id",
        "TRACER_NAME": "agentlightning.tracer.name",
    }
    assert {member.name: member.value.removeprefix("agentlightning.") for member in Key} == {
        "REWARD": "reward",
        "LINK": "link",
        "TAG": "tag",
        "MESSAGE_BODY": "message.body",
        "OBJECT_TYPE": "object.type",
        "OBJECT_LITERAL": "object.literal",
        "OBJECT_JSON": "object.json",
        "OPERATION_NAME": "operation.name",
        "OPERATION_INPUT": "operation.input",
        "OPERATION_OUTPUT": "operation.output",
    }
    assert {member.value for member in RewardAttributes} == {"name", "value"}
    assert {member.value for member in LinkAttributes} == {"key_match", "value_match"}
    reward = emit_reward(
        {"a": 1.0, "b": 2.0},
        primary_key="b",
        attributes={**make_link_attributes({"span_id": "ab"}), **make_tag_attributes(["x"])},
    )
    assert reward.attributes == {
        "agentlightning.reward.0.name": "b",
        "agentlightning.reward.0.value": 2.0,
        "agentlightning.reward.1.name": "a",
        "agentlightning.reward.1.value": 1.0,
        "agentlightning.link.0.key_match": "span_id",
        "agentlightning.link.0.value_match": "ab",
        "agentlightning.tag.0": "x",
    }


def test_models_have_v03s_fields() -> None:
    assert RewardPydanticModel(name="a", value=1).model_dump() == {"name": "a", "value": 1.0}
    assert LinkPydanticModel(key_match="a", value_match="b").model_dump() == {"key_match": "a", "value_match": "b"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", ("str", "literal", "x")),
        (1, ("int", "literal", "1")),
        (0.5, ("float", "literal", "0.5")),
        (True, ("bool", "literal", "True")),
        (b"\x00\xff", ("bytes", "literal", base64.b64encode(b"\x00\xff").decode())),
        ({"a": [1]}, ("dict", "json", '{"a": [1]}')),
    ],
)
def test_objects_are_encoded_as_in_v03(value: object, expected: tuple[str, str, str]) -> None:
    kind, form, text = expected
    assert emit_object(value).attributes == {
        "agentlightning.object.type": kind,
        f"agentlightning.object.{form}": text,
    }
    assert full_qualified_name(type(value)) == kind
    assert full_qualified_name(Span) == "agentlightning.types.tracer.Span"


async def test_exceptions_are_encoded_as_in_v03() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        emit_exception(KeyError("x"), {"a": {"b": 1}})
    (span,) = tracer.get_last_trace()
    stack = span.attributes.pop("exception.stacktrace")
    assert "KeyError" in str(stack)
    assert span.attributes == {
        "exception.type": "KeyError",
        "exception.message": "'x'",
        "exception.escaped": True,
        "a.b": 1,
    }
    assert (span.name, span.status.status_code) == ("agentlightning.exception", "OK")


async def test_annotations_are_flat_and_ok() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        core = emit_annotation({"a": {"b": [1, 2]}, "c": [1, "x"]})
    (span,) = tracer.get_last_trace()
    assert span.attributes == core.attributes == {"a.b": [1, 2], "c.0": 1, "c.1": "x"}
    assert (span.name, span.status.status_code) == ("agentlightning.annotation", "OK")


@pytest.mark.parametrize("value", [{1}, object(), None], ids=["set", "object", "none"])
def test_a_wrong_annotation_is_refused_first(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_EMITTER_STRICT", "1")  # by which a missing tracer is an error, too
    with pytest.raises(ValueError, match="'a' holds a"):
        emit_annotation({"a": value})


def test_helpers_are_found_at_v03s_path() -> None:
    module = importlib.import_module("agentlightning.utils.otel")
    assert [name for name in HELPERS if not callable(getattr(module, name))] == []
    annotation = importlib.import_module("agentlightning.emitter.annotation")
    assert annotation.operation is operation
