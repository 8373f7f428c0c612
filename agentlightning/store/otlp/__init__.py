"""OpenTelemetry spans over HTTP (OTLP): what a stock exporter sends becomes spans of the store.

The server mounts these functions; nothing here knows its web framework.
"""

from agentlightning.store.otlp.answer import Answer, error_answer
from agentlightning.store.otlp.handler import OTHER_SIGNALS, TRACES_PATH, handle_other_signal, handle_traces
from agentlightning.store.otlp.payload import MAX_BYTES
from agentlightning.store.otlp.spans import ReceivedTraces, parse_traces

__all__ = [
    "MAX_BYTES",
    "OTHER_SIGNALS",
    "TRACES_PATH",
    "Answer",
    "ReceivedTraces",
    "error_answer",
    "handle_other_signal",
    "handle_traces",
    "parse_traces",
]
