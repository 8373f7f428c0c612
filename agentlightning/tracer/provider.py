"""The OpenTelemetry provider and tracer that spans of an agent's own go through."""

from __future__ import annotations

import logging
import os
from typing import Any, Final

from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

DEBUG_VARIABLE: Final = "AGL_EMITTER_DEBUG"
"""The environment variable that has `get_tracer_provider` log where spans go."""
_OFF: Final = ("", "0", "false", "no", "off")


def get_tracer_provider(inspect: bool = True) -> TracerProvider:
    """Return the global OpenTelemetry provider, which the first trace of the process sets if nothing else has.

    Args:
        inspect: Log its processors, if `AGL_EMITTER_DEBUG` is set or the logger takes DEBUG.

    Raises:
        RuntimeError: There is none yet.
    """
    provider: Any = otel.get_tracer_provider()
    if isinstance(provider, otel.ProxyTracerProvider):
        raise RuntimeError("OpenTelemetry has no tracer provider yet: open a trace with OtelTracer.trace_context first")
    if not isinstance(provider, TracerProvider):
        logger.error(
            "The OpenTelemetry provider is a %s, not one of the SDK: its spans may reach nobody",
            type(provider).__name__,
        )
    elif inspect:
        _log_processors(provider)
    return provider


def get_tracer(use_active_span_processor: bool = True) -> otel.Tracer:
    """Return an OpenTelemetry tracer named `agentlightning`.

    Args:
        use_active_span_processor: Its spans go to the global provider; otherwise nowhere.

    Raises:
        RuntimeError: There is no global provider yet.
    """
    provider = get_tracer_provider() if use_active_span_processor else TracerProvider(shutdown_on_exit=False)
    return provider.get_tracer("agentlightning")


def _log_processors(provider: TracerProvider) -> None:
    level = logging.INFO if os.environ.get(DEBUG_VARIABLE, "").strip().lower() not in _OFF else logging.DEBUG
    if logger.isEnabledFor(level):
        group = getattr(provider, "_active_span_processor", None)  # the SDK has no public way to name them
        names = [type(processor).__name__ for processor in getattr(group, "_span_processors", ())]
        logger.log(level, "Spans go to %s", ", ".join(names) or "no processor")
