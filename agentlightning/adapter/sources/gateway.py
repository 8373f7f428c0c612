"""What our own gateway writes: the only form that keeps the request as it was sent."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import LLMCall, Span
from agentlightning.types.llm_call_span import REQUEST, SOURCE, decode_calls

__all__ = ["SOURCE", "read"]


def read(span: Span, below: Sequence[Span]) -> list[LLMCall] | None:
    """Read a call of the gateway."""
    return decode_calls(span) if REQUEST in span.attributes else None
