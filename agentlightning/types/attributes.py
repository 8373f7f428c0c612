"""Span attributes: nested values as flat ones, and the rewards, links and tags written in them.

Functions that make attributes raise on bad input. Functions named `extract_…` and `query_…` read what anybody may have
written: malformed attributes give an empty answer and a log line, never an error.
"""

from __future__ import annotations

import json
import logging
import math
import numbers
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_span_id, format_trace_id
from pydantic import TypeAdapter

from agentlightning._internal.text import encodable, shortened, text_of
from agentlightning.semconv import (
    LightningSpanAttributes,
    LinkAttributes,
    LinkPydanticModel,
    RewardPydanticModel,
)
from agentlightning.types.tracer import Attributes, AttributeValue, Span

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")
SpanT = TypeVar("SpanT", bound=ReadableSpan | Span)

_TAGS = TypeAdapter(list[str])
_LINKS = TypeAdapter(list[LinkPydanticModel])
_REWARDS = TypeAdapter(list[RewardPydanticModel])
_PRIMITIVES = (str, bool, int, float)


# -- nested and flat ---------------------------------------------------------------------------------------------------


def flatten_attributes(
    nested_data: Mapping[str, Any] | Sequence[Any], *, expand_leaf_lists: bool = False
) -> dict[str, Any]:
    """Turn nested mappings and lists into one mapping with dotted keys.

    A list of values of one primitive type stays one value below the root, unless `expand_leaf_lists`; all other lists
    get one key an element (`tags.0`). Empty lists and mappings vanish; None stays. A single value has the key `""`.

    Raises:
        ValueError: A key is not a string, or the data are nested without end.
    """
    if not isinstance(nested_data, (Mapping, list, tuple)):
        return {"": nested_data}
    flat: dict[str, Any] = {}
    try:
        for key, value in _children(nested_data):
            _flatten_into(flat, key, value, expand_leaf_lists)
    except RecursionError as error:
        raise ValueError("the data are nested too deeply, or contain themselves") from error
    return flat


def _flatten_into(flat: dict[str, Any], key: str, value: Any, expand: bool) -> None:
    if not isinstance(value, (Mapping, list, tuple)) or (not expand and is_leaf_list(value)):
        flat[key] = value
        return
    for child, item in _children(cast("Mapping[str, Any] | Sequence[Any]", value)):
        _flatten_into(flat, f"{key}.{child}", item, expand)


def _children(data: Mapping[Any, Any] | Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if not isinstance(data, Mapping):
        yield from ((str(index), item) for index, item in enumerate(data))
        return
    for key, item in data.items():
        if not isinstance(key, str):
            raise ValueError(f"attribute keys must be strings, not {key!r}")
        yield key, item


def is_leaf_list(value: Any) -> bool:
    """Whether the value is a list of primitives of one type, which an attribute holds as it is."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    items = cast("Sequence[Any]", value)
    return isinstance(items[0], _PRIMITIVES) and all(type(item) is type(items[0]) for item in items)


def unflatten_attributes(flat_data: Mapping[str, Any]) -> dict[str, Any] | list[Any]:
    """Undo `flatten_attributes`: dotted keys become mappings, and keys 0 … n-1 a list.

    Where one key is a value and another goes through it, the deeper one wins.
    """
    tree: dict[str, Any] = {}
    branches: list[tuple[dict[str, Any], str]] = []
    for path, value in sorted(flat_data.items(), key=lambda item: item[0].count(".")):
        *parents, leaf = path.split(".")
        node = tree
        for part in parents:
            child = node.get(part)
            if not isinstance(child, _Branch):
                child = node[part] = _Branch()
                branches.append((node, part))
            node = child
        node[leaf] = value
    for node, part in reversed(branches):  # a branch is made after the one it is in; keys may be of any depth
        node[part] = _listed(node[part])
    return _listed(tree)


class _Branch(dict[str, Any]):
    """A mapping made from dotted keys, as opposed to one that was a value."""


def _listed(node: dict[str, Any]) -> dict[str, Any] | list[Any]:
    if node and all(str(index) in node for index in range(len(node))):
        return [node[str(index)] for index in range(len(node))]
    return dict(node)


def filter_attributes(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the attributes whose key is `prefix` or lies below it."""
    return {key: value for key, value in attributes.items() if key == prefix or key.startswith(f"{prefix}.")}


def filter_and_unflatten_attributes(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any] | list[Any]:
    """Return what lies below `prefix` as nested data.

    Raises:
        ValueError: `prefix` itself is a key, so it is a value and has nothing below it.
    """
    if prefix in attributes:
        raise ValueError(f"attribute {prefix!r} is a value; expected keys below it, such as '{prefix}.0'")
    below = filter_attributes(attributes, prefix)
    return unflatten_attributes({key[len(prefix) + 1 :]: value for key, value in below.items()})


# -- what OpenTelemetry accepts ----------------------------------------------------------------------------------------


def check_attributes_sanity(attributes: Mapping[Any, Any]) -> None:
    """Refuse what an attribute cannot hold.

    Raises:
        ValueError: A key is not a string, or a value is neither a primitive nor a list of primitives.
    """
    for key, value in attributes.items():
        if not isinstance(key, str):
            raise ValueError(f"attribute keys must be strings, not {key!r}")
        items = cast("Sequence[Any]", value) if isinstance(value, (list, tuple)) else [value]
        for item in items:
            if not isinstance(item, _PRIMITIVES):
                raise ValueError(
                    f"attribute {key!r} holds a {type(item).__name__}: "
                    "use strings, booleans, numbers, or lists and dicts of them"
                )


def sanitize_attribute_value(object: Any, force: bool = True) -> AttributeValue:
    """Return the value as OpenTelemetry accepts it: primitives and lists of one type stay, the rest becomes JSON.

    In texts, lone surrogates become escapes, as UTF-8 cannot hold them.

    Args:
        object: The value. Lists of booleans and integers become integers, lists of mixed numbers floats.
        force: Write what JSON does not know as its `str()`, instead of raising.

    Raises:
        ValueError: The value has no JSON form and `force` is off.
    """
    if isinstance(object, str):
        return encodable(object)
    if isinstance(object, _PRIMITIVES):
        return object
    uniform = _uniform_list(cast("Sequence[Any]", object)) if isinstance(object, (list, tuple)) else None
    return _to_json(object, force) if uniform is None else uniform


def sanitize_list_attribute_sanity(maybe_list: Sequence[Any]) -> AttributeValue:
    """Return a list as OpenTelemetry accepts it: of one type, numbers of several types as the widest of them.

    Raises:
        ValueError: The values have no type in common.
    """
    uniform = _uniform_list(maybe_list)
    if uniform is None:
        kinds = sorted({type(item).__name__ for item in maybe_list})
        raise ValueError(f"an attribute holds a list of one type, not of {', '.join(kinds)}")
    return uniform


def _to_json(value: Any, force: bool) -> str:
    try:
        return json.dumps(value, default=text_of if force else None)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a {type(value).__name__} has no JSON form: {error}") from error


def _uniform_list(items: Sequence[Any]) -> AttributeValue | None:
    if all(isinstance(item, str) for item in items):
        return [encodable(item) for item in items]
    if all(isinstance(item, bool) for item in items):
        return list(items)
    if all(isinstance(item, int) for item in items):
        return [int(item) for item in items]
    if all(isinstance(item, numbers.Real) for item in items):
        return [float(item) for item in items]
    return None


def sanitize_attributes(attributes: Mapping[str, Any], force: bool = True) -> Attributes:
    """Apply `sanitize_attribute_value` to every value, and make the keys encodable.

    Raises:
        ValueError: A value has no JSON form and `force` is off.
    """
    return {encodable(key): sanitize_attribute_value(value, force) for key, value in attributes.items()}


# -- rewards, tags, links, exceptions ----------------------------------------------------------------------------------


def extract_rewards_from_attributes(attributes: Mapping[str, Any]) -> list[RewardPydanticModel]:
    """Return the dimensions of a reward, the primary one first; `[]` when there is none or it is malformed.

    What is not a finite number is malformed.
    """
    return _extract(attributes, LightningSpanAttributes.REWARD.value, _finite_rewards)


def _finite_rewards(rewards: Any) -> list[RewardPydanticModel]:
    models = _REWARDS.validate_python(rewards)
    if any(not math.isfinite(model.value) for model in models):
        raise ValueError("a reward is a finite number")
    return models


def make_tag_attributes(tags: list[str]) -> dict[str, Any]:
    """Return the attributes that carry the tags."""
    return flatten_attributes({LightningSpanAttributes.TAG.value: _TAGS.validate_python(tags)}, expand_leaf_lists=True)


def extract_tags_from_attributes(attributes: Mapping[str, Any]) -> list[str]:
    """Return the tags; `[]` when there are none or they are malformed."""
    return _extract(attributes, LightningSpanAttributes.TAG.value, _TAGS.validate_python)


def make_link_attributes(links: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes that link to every span with all the given attributes.

    The keys `trace_id` and `span_id` stand for the span's own (hexadecimal) ids.

    Raises:
        ValueError: A value is not a string.
    """
    for key, value in links.items():
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # user input
            raise ValueError(f"link {key!r} must match a string, not {value!r}")
    match, expected = LinkAttributes.KEY_MATCH.value, LinkAttributes.VALUE_MATCH.value
    return flatten_attributes(
        {LightningSpanAttributes.LINK.value: [{match: key, expected: value} for key, value in links.items()]}
    )


def extract_links_from_attributes(attributes: Mapping[str, Any]) -> list[LinkPydanticModel]:
    """Return the links; `[]` when there are none or they are malformed."""
    return _extract(attributes, LightningSpanAttributes.LINK.value, _LINKS.validate_python)


def query_linked_spans(spans: Sequence[SpanT], links: Sequence[LinkPydanticModel]) -> list[SpanT]:
    """Return the spans that match all links; all spans when there are no links."""
    return [span for span in spans if all(_matches(span, link) for link in links)]


def _matches(span: ReadableSpan | Span, link: LinkPydanticModel) -> bool:
    if link.key_match in ("trace_id", "span_id"):
        return _hex_id(span, link.key_match) == link.value_match
    return (span.attributes or {}).get(link.key_match) == link.value_match


def _hex_id(span: ReadableSpan | Span, key: str) -> str | None:
    if isinstance(span, Span):
        return span.trace_id if key == "trace_id" else span.span_id
    context = span.get_span_context()
    if context is None:
        return None
    return format_trace_id(context.trace_id) if key == "trace_id" else format_span_id(context.span_id)


def format_exception_attributes(exception: BaseException) -> Attributes:
    """Return an exception as OpenTelemetry's `exception.…` attributes, also one whose `__str__` raises.

    Of long texts the middle is left out: a store may refuse what holds tens of megabytes.
    """
    return {
        "exception.type": type(exception).__name__,
        "exception.message": shortened(text_of(exception)),
        "exception.stacktrace": shortened(encodable("".join(traceback.format_exception(exception)))),
        "exception.escaped": True,
    }


def full_qualified_name(obj: type) -> str:
    """Return `module.QualifiedName`, without the module for built-in types."""
    return obj.__qualname__ if obj.__module__ == "builtins" else f"{obj.__module__}.{obj.__qualname__}"


def _extract(attributes: Mapping[str, Any], prefix: str, validate: Callable[[Any], list[ResultT]]) -> list[ResultT]:
    start = f"{prefix}."
    below = {key: value for key, value in attributes.items() if key.startswith(start)}
    if not below:
        return []
    try:
        return validate(filter_and_unflatten_attributes(below, prefix))
    except ValueError as error:
        logger.warning("Ignored malformed attributes below %r: %s", prefix, error)
        return []
