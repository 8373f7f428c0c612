"""Which agent a span names, in the words of each library that names agents."""

from __future__ import annotations

from typing import Any, Final

from agentlightning.semconv import AGL_OPERATION, LightningSpanAttributes
from agentlightning.types import Attributes, Span
from agentlightning.types.chat_shape import load_dict

_OPERATION_NAME: Final = LightningSpanAttributes.OPERATION_NAME.value
_INPUT_NAME: Final = f"{LightningSpanAttributes.OPERATION_INPUT.value}.name"
_PLAIN_KEYS: Final = (
    "recipient_agent_type",  # AutoGen
    "langchain.chain.type",  # LangGraph, as AgentOps records it
    "executor.id",  # agent-framework
    "gen_ai.agent.name",  # OpenTelemetry
    "graph.node.id",  # OpenInference
)

_KEYS: Final = frozenset(
    {"agent.name", "agentops.span.kind", *_PLAIN_KEYS, "type", "lc_name", "metadata", "openinference.span.kind"}
)


def agent_name(span: Span) -> str | None:
    """Return the name of the agent whose work the span is, if the span says so itself; otherwise None.

    The first of these counts: `agent.name`; `operation.name` of an AgentOps agent; AutoGen's
    `recipient_agent_type`; `langchain.chain.type`; `executor.id`; `gen_ai.agent.name`; `graph.node.id`; the name of an
    operation whose attribute `type` is `agent`; `lc_name` of a LangChain chain; LangChain's `lc_agent_name` and the
    path of LangGraph's nodes in OpenInference's `metadata`; the span's name where `openinference.span.kind` is `AGENT`.
    """
    attributes = span.attributes
    if _KEYS.isdisjoint(attributes):  # most spans
        return None
    name = (
        attributes.get("agent.name")
        or (attributes.get("operation.name") if attributes.get("agentops.span.kind") == "agent" else None)
        or next((attributes[key] for key in _PLAIN_KEYS if attributes.get(key)), None)
        or (_operation_name(span) if attributes.get("type") == "agent" else None)
        or (attributes.get("lc_name") if span.name.startswith("langchain.Chain.") else None)
        or _langgraph_name(attributes)
        or (span.name if attributes.get("openinference.span.kind") == "AGENT" else None)
    )
    return str(name) if name else None


def _operation_name(span: Span) -> Any:
    """Weave keeps the name among the inputs; our own operations have one."""
    own = span.attributes.get(_OPERATION_NAME) if span.name == AGL_OPERATION else None
    return span.attributes.get(_INPUT_NAME) or own


def _langgraph_name(attributes: Attributes) -> str | None:
    """Read the agent, or the nodes from the outermost graph to the innermost: `researcher/agent`."""
    text = attributes.get("metadata")
    if not isinstance(text, str) or ("langgraph_node" not in text and "lc_agent_name" not in text):
        return None
    fields = load_dict(text)  # empty where a limit cut it; another span of the node has it whole
    path = str(fields.get("langgraph_checkpoint_ns") or fields.get("langgraph_node") or "")
    nodes = [step.partition(":")[0] for step in path.split("|")]
    return str(fields.get("lc_agent_name") or "/".join(node for node in nodes if node)) or None
