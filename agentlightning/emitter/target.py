"""Where an emitted span goes."""

from __future__ import annotations

from agentlightning.tracer import DummyTracer, Tracer, get_active_tracer


def target_tracer(propagate: bool) -> Tracer:
    """Return the active tracer; one that keeps nothing when there is none, or when nothing should propagate."""
    return (get_active_tracer() if propagate else None) or DummyTracer()
