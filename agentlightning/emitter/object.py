"""Objects: any value with a literal or JSON form, kept with the trace."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any, cast

from agentlightning.emitter.target import target_tracer
from agentlightning.semconv import AGL_OBJECT, LightningSpanAttributes
from agentlightning.types import SpanCoreFields, SpanLike, TraceStatus
from agentlightning.types.attributes import flatten_attributes, full_qualified_name, sanitize_attributes

logger = logging.getLogger(__name__)

_TYPE = LightningSpanAttributes.OBJECT_TYPE.value
_LITERAL = LightningSpanAttributes.OBJECT_LITERAL.value
_JSON = LightningSpanAttributes.OBJECT_JSON.value


def emit_object(object: Any, attributes: dict[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Emit a value.

    Args:
        object: A string, number, boolean, bytes, or anything JSON can hold.
        attributes: More attributes; nested values get dotted keys.
        propagate: Record it in the active trace, if there is one; otherwise it is only returned.

    Returns:
        The span's fields.

    Raises:
        RuntimeError: The value has no JSON form, or is an integer with more digits than Python writes.
    """
    content = {**encode_object(object), **flatten_attributes(attributes or {})}
    return target_tracer(propagate).create_span(
        AGL_OBJECT, sanitize_attributes(content), status=TraceStatus(status_code="OK")
    )


def encode_object(object: Any) -> dict[str, Any]:
    """Return the attributes that hold a value.

    Raises:
        RuntimeError: The value has no JSON form, or is an integer with more digits than Python writes.
    """
    kind = cast("type[Any]", type(object))
    encoded: dict[str, Any] = {_TYPE: full_qualified_name(kind)}
    if kind is bytes:
        return encoded | {_LITERAL: base64.b64encode(object).decode("ascii")}
    # Exactly these types: a literal of a subclass, such as numpy's float64, could not be read back.
    try:
        if kind in (str, bool, int, float):
            return encoded | {_LITERAL: str(object)}
        return encoded | {_JSON: json.dumps(object)}
    except (TypeError, ValueError, RecursionError) as error:
        raise RuntimeError(f"a {kind.__name__} has no JSON form: {error}") from error


def get_object_value(span: SpanLike) -> Any:
    """Return the value of an object span; None for other spans, and for one whose attributes hold no value."""
    attributes = span.attributes or {}
    try:
        if _JSON in attributes:
            return json.loads(str(attributes[_JSON]))
        if _LITERAL in attributes:
            return _decode_literal(str(attributes.get(_TYPE)), str(attributes[_LITERAL]))
    except (ValueError, RecursionError) as error:
        logger.warning("Ignored the object of span %r, which cannot be read: %s", span.name, error)
    return None


def _decode_literal(kind: str, literal: str) -> Any:
    match kind:
        case "str":
            return literal
        case "int":
            return int(literal)
        case "float":
            return float(literal)
        case "bool":
            return literal.lower() == "true"
        case "bytes":
            return base64.b64decode(literal)
        case _:
            raise ValueError(f"a literal of type {kind!r} is none of str, int, float, bool and bytes")
