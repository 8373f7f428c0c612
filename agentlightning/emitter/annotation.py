"""Annotations: metadata such as rewards, tags and links, as a span of its own."""

from __future__ import annotations

from typing import Any

from agentlightning.emitter.operation import OperationContext, operation
from agentlightning.emitter.target import target_tracer
from agentlightning.semconv import AGL_ANNOTATION
from agentlightning.types import SpanCoreFields, TraceStatus
from agentlightning.types.attributes import check_attributes_sanity, flatten_attributes, sanitize_attributes

# Programs of v0.3 import these two from here.
__all__ = ["OperationContext", "emit_annotation", "operation"]


def emit_annotation(annotation: dict[str, Any], propagate: bool = True) -> SpanCoreFields:
    """Emit an annotation.

    Args:
        annotation: Its content; nested values get dotted keys.
        propagate: Record it in the active trace, if there is one; otherwise it is only returned.

    Returns:
        The span's fields.

    Raises:
        ValueError: A value is neither a primitive nor made of primitives.
    """
    attributes = flatten_attributes(annotation)
    check_attributes_sanity(attributes)
    return target_tracer(propagate).create_span(
        AGL_ANNOTATION, sanitize_attributes(attributes), status=TraceStatus(status_code="OK")
    )
