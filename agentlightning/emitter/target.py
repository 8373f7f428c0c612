"""Where an emitted span goes."""

from __future__ import annotations

import os
from typing import Final

from agentlightning.errors import ConfigurationError, NoActiveTracer
from agentlightning.tracer import DummyTracer, Tracer, get_active_tracer
from agentlightning.tracer.processor import open_traces

STRICT_VARIABLE: Final = "AGL_EMITTER_STRICT"
"""The environment variable that makes emitting outside of any trace an error."""
_WORDS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def target_tracer(propagate: bool) -> Tracer:
    """Return the tracer that records here; one that keeps nothing if there is none, or nothing should propagate.

    Raises:
        NoActiveTracer: There is none, and `AGL_EMITTER_STRICT` is set.
    """
    if not propagate:
        return DummyTracer()
    tracer = tracer_here()
    if tracer is None and _strict():
        raise NoActiveTracer(
            f"nothing is traced here, and {STRICT_VARIABLE} is set: emit inside of a rollout or of "
            "tracer.trace_context(), pass propagate=False, or unset the variable to let it go unrecorded"
        )
    return tracer or DummyTracer()


def tracer_here() -> Tracer | None:
    """Return the active tracer, or that of the process's open traces where the context was lost.

    Then the only open trace takes what is emitted; if there are several, it is dropped and counted like any span.
    """
    active = get_active_tracer()
    if active is not None:
        return active
    traces = open_traces()
    return traces[0].tracer if traces else None


def _strict() -> bool:
    word = os.environ.get(STRICT_VARIABLE, "").strip().lower()
    if word and word not in _WORDS:
        raise ConfigurationError(f"{STRICT_VARIABLE} is {word!r}: write 1 or 0")
    return _WORDS.get(word, False)
