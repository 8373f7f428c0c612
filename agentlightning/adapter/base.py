"""What every adapter is: a function from what was traced to what an algorithm reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from opentelemetry.sdk.trace import ReadableSpan

from agentlightning.types import Span

F = TypeVar("F")
T = TypeVar("T")


class Adapter(Generic[F, T]):
    """Turns a source of type `F` into data of type `T`; an instance is called like a function."""

    def __call__(self, source: F, /) -> T:
        """Return `adapt(source)`."""
        return self.adapt(source)

    def adapt(self, source: F, /) -> T:
        """Turn the source into data; subclasses say how."""
        raise NotImplementedError(f"{type(self).__name__} must define adapt(source)")


class TraceAdapter(Adapter[Sequence[Span], T], Generic[T]):
    """Reads the spans of one rollout as the store returns them."""


class OtelTraceAdapter(Adapter[Sequence[ReadableSpan], T], Generic[T]):
    """Reads spans of the OpenTelemetry SDK, as a tracer holds them."""
