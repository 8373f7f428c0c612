"""Tracers: what an agent does becomes spans, each in the trace of the task that did it."""

from agentlightning.tracer.agentops import AgentOpsTracer
from agentlightning.tracer.base import Tracer, clear_active_tracer, get_active_tracer, set_active_tracer
from agentlightning.tracer.dummy import DummyTracer
from agentlightning.tracer.otel import OtelTracer
from agentlightning.tracer.processor import dropped_spans

__all__ = [
    "AgentOpsTracer",
    "DummyTracer",
    "OtelTracer",
    "Tracer",
    "clear_active_tracer",
    "dropped_spans",
    "get_active_tracer",
    "set_active_tracer",
]
