"""Objects: any value with a literal or JSON form, kept with the trace."""

from __future__ import annotations

import base64
import json
from typing import Any, cast

from agentlightning.emitter.target import target_tracer
from agentlightning.semconv import AGL_OBJECT, LightningSpanAttributes
from agentlightning.types import SpanCoreFields, SpanLike, TraceStatus
from agentlightning.types.attributes import flatten_attributes, full_qualified_name, sanitize_attributes

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
        RuntimeError: The value has no JSON form.
    """
    content = {**encode_object(object), **flatten_attributes(attributes or {})}
    return target_tracer(propagate).create_span(
        AGL_OBJECT, sanitize_attributes(content), status=TraceStatus(status_code="OK")
    )


def encode_object(object: Any) -> dict[str, Any]:
    """Return the attributes that hold a value.

    Raises:
        RuntimeError: The value has no JSON form.
    """
    kind = cast("type[Any]", type(object))
    encoded: dict[str, Any] = {_TYPE: full_qualified_name(kind)}
    if isinstance(object, bytes):
        return encoded | {_LITERAL: base64.b64encode(object).decode("ascii")}
    if isinstance(object, (str, bool, int, float)):
        return encoded | {_LITERAL: str(object)}
    try:
        return encoded | {_JSON: json.dumps(object)}
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"a {kind.__name__} has no JSON form: {error}") from error


def get_object_value(span: SpanLike) -> Any:
    """Return the value of an object span; None for other spans.

    Raises:
        RuntimeError: The attributes do not hold a value.
    """
    attributes = span.attributes or {}
    if _JSON in attributes:
        try:
            return json.loads(str(attributes[_JSON]))
        except ValueError as error:
            raise RuntimeError(f"the object of span {span.name!r} is not JSON: {error}") from error
    if _LITERAL not in attributes:
        return None
    return _decode_literal(str(attributes.get(_TYPE)), str(attributes[_LITERAL]))


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
            raise RuntimeError(f"a literal of type {kind!r} cannot be read; known are str, int, float, bool and bytes")
