"""Messages: text that an agent wants to keep with its trace."""

from __future__ import annotations

import logging
from typing import Any

from agentlightning.emitter.target import target_tracer
from agentlightning.semconv import AGL_MESSAGE, LightningSpanAttributes
from agentlightning.types import SpanLike, TraceStatus
from agentlightning.types.attributes import flatten_attributes, sanitize_attributes

logger = logging.getLogger(__name__)


def emit_message(message: str, attributes: dict[str, Any] | None = None, propagate: bool = True) -> None:
    """Emit a text.

    Args:
        message: The text.
        attributes: More attributes; nested values get dotted keys.
        propagate: Record it in the active trace, if there is one.

    Raises:
        TypeError: The message is not a string.
    """
    if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # user input
        raise TypeError(f"a message is a string, not a {type(message).__name__}; emit_object takes anything else")
    content = {LightningSpanAttributes.MESSAGE_BODY.value: message, **flatten_attributes(attributes or {})}
    target_tracer(propagate).create_span(
        AGL_MESSAGE, sanitize_attributes(content), status=TraceStatus(status_code="OK")
    )


def get_message_value(span: SpanLike) -> str | None:
    """Return the text of a message span; None for other spans, and for one whose message is not a text."""
    message = (span.attributes or {}).get(LightningSpanAttributes.MESSAGE_BODY.value)
    if message is not None and not isinstance(message, str):
        logger.warning("Ignored the message of span %r: it is a %s, not a text", span.name, type(message).__name__)
        return None
    return message
