"""Adapters turn spans into what algorithms read: model calls, triplets, training rows."""

from agentlightning.adapter.base import Adapter, OtelTraceAdapter, TraceAdapter
from agentlightning.adapter.llm_call import llm_calls
from agentlightning.adapter.messages import TraceToMessages
from agentlightning.adapter.rewards import RewardMatchPolicy
from agentlightning.adapter.trajectory import (
    MergeCounters,
    TraceToTrajectories,
    Trajectories,
    calls_to_train,
    merge_calls,
)
from agentlightning.adapter.tree import TraceTree, agent_labels
from agentlightning.adapter.triplet import LlmProxyTraceToTriplet, TracerTraceToTriplet, TraceToTripletBase

__all__ = [
    "Adapter",
    "LlmProxyTraceToTriplet",
    "MergeCounters",
    "OtelTraceAdapter",
    "RewardMatchPolicy",
    "TraceAdapter",
    "TraceToMessages",
    "TraceToTrajectories",
    "TraceToTripletBase",
    "TraceTree",
    "TracerTraceToTriplet",
    "Trajectories",
    "agent_labels",
    "calls_to_train",
    "llm_calls",
    "merge_calls",
]
