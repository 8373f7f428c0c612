"""OpenTelemetry spans over HTTP (OTLP): what a stock exporter sends becomes spans of the store.

The server mounts these functions; nothing here knows its web framework. Protobuf is loaded with the first use of one.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning._internal.lazy import names_for_type_checkers
from agentlightning.store.otlp.paths import OTHER_SIGNALS, TRACES_PATH

if TYPE_CHECKING:
    from agentlightning.store.otlp.answer import Answer, error_answer
    from agentlightning.store.otlp.handler import handle_other_signal, handle_traces
    from agentlightning.store.otlp.spans import ReceivedTraces, parse_traces

__all__ = [
    "OTHER_SIGNALS",
    "TRACES_PATH",
    "Answer",
    "ReceivedTraces",
    "error_answer",
    "handle_other_signal",
    "handle_traces",
    "parse_traces",
]

_HOMES = names_for_type_checkers(Path(__file__))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
