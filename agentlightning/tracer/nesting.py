"""Parents of spans that were started inside a framework's run without being told so."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import SpanContext

from agentlightning.tracer.active import ActiveTrace

_LANGCHAIN: Final = "openinference.instrumentation.langchain"
"""Its instrumentor knows its own tree, but leaves the OpenTelemetry context as it is: callbacks cannot restore it."""


@dataclass(frozen=True)
class _Run:
    """A run of the framework.

    Attributes:
        trace: Where the run belongs; it does not keep the trace alive.
        span: The run.
        outer: The run it is part of.
        base: The parent of the outermost run.
    """

    trace: weakref.ref[ActiveTrace]
    span: SdkSpan
    outer: _Run | None
    base: SpanContext | None


_RUN: Final[ContextVar[_Run | None]] = ContextVar("agentlightning-framework-run", default=None)
"""The run that was started last in this task, or in the task that started it; it may be over."""


def framework_parent(span: SdkSpan, trace: ActiveTrace) -> SpanContext | None:
    """Return the framework's run of which a span that starts here is part, if its own parent does not say so."""
    scope = span.instrumentation_scope
    run = _open_run(trace)
    if scope is not None and scope.name == _LANGCHAIN:
        _RUN.set(_Run(weakref.ref(trace), span, run, run.base if run else span.parent))
        return None
    if run is None or _span_id(span.parent) != _span_id(run.base):
        return None
    return run.span.get_span_context()


def _open_run(trace: ActiveTrace) -> _Run | None:
    run = _RUN.get()
    while run is not None and not (run.span.is_recording() and run.trace() is trace):
        run = run.outer
    return run


def _span_id(context: SpanContext | None) -> int:
    return context.span_id if context else 0
