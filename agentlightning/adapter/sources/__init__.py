"""The forms in which spans tell of model calls: one small reader each, all giving the same record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from agentlightning.adapter.sources import agentops, gateway, gen_ai, litellm, openinference, operation
from agentlightning.types import LLMCall, Span

Reader = Callable[[Span, Sequence[Span]], "list[LLMCall] | None"]
"""Reads a span, given the spans directly below it: None for a span of another form, an empty list for no answer."""

READERS: Final[dict[str, Reader]] = {
    gateway.SOURCE: gateway.read,
    openinference.SOURCE: openinference.read,
    litellm.SOURCE: litellm.read,
    operation.SOURCE: operation.read,
    agentops.SOURCE: agentops.read,
    gen_ai.SOURCE: gen_ai.read,
}
"""By source; a span is read in the first form that it has, so the particular ones stand before the general."""

__all__ = ["READERS", "Reader"]
