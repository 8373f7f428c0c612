"""Exceptions: what went wrong, as a span of its own."""

from __future__ import annotations

from typing import Any

from agentlightning.emitter.target import target_tracer
from agentlightning.semconv import AGL_EXCEPTION
from agentlightning.types import TraceStatus
from agentlightning.types.attributes import flatten_attributes, format_exception_attributes, sanitize_attributes


def emit_exception(exception: BaseException, attributes: dict[str, Any] | None = None, propagate: bool = True) -> None:
    """Emit an exception with its type, message and stack trace.

    Args:
        exception: The exception.
        attributes: More attributes; nested values get dotted keys.
        propagate: Record it in the active trace, if there is one.

    Raises:
        TypeError: It is not an exception.
    """
    if not isinstance(exception, BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]  # user input
        raise TypeError(f"expected an exception, not a {type(exception).__name__}")
    content = {**format_exception_attributes(exception), **flatten_attributes(attributes or {})}
    target_tracer(propagate).create_span(
        AGL_EXCEPTION, sanitize_attributes(content), status=TraceStatus(status_code="OK")
    )
