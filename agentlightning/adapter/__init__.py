"""Adapters turn spans into what algorithms read: model calls, triplets, training rows."""

from agentlightning.adapter.base import Adapter, OtelTraceAdapter, TraceAdapter
from agentlightning.adapter.llm_call import llm_calls
from agentlightning.adapter.trajectory import MergeCounters, TraceToTrajectories, Trajectories, merge_calls
from agentlightning.adapter.triplet import LlmProxyTraceToTriplet, TracerTraceToTriplet, TraceToTripletBase

__all__ = [
    "Adapter",
    "LlmProxyTraceToTriplet",
    "MergeCounters",
    "OtelTraceAdapter",
    "TraceAdapter",
    "TraceToTrajectories",
    "TraceToTripletBase",
    "TracerTraceToTriplet",
    "Trajectories",
    "llm_calls",
    "merge_calls",
]
