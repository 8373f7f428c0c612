"""The agent of the demo is the one that the example shows."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from agentlightning.errors import ConfigurationError
from agentlightning.extras import needed_for
from agentlightning.litagent import LitAgent

_INSTALLED = Path(__file__).with_name("pointer_lookup.py")
_IN_CHECKOUT = Path(__file__).parents[2] / "examples" / "pointer_lookup" / "main.py"


@cache
def load_agent() -> LitAgent[Any]:
    """Load the agent from `examples/pointer_lookup/main.py`, which a wheel carries beside this file."""
    path = _INSTALLED if _INSTALLED.exists() else _IN_CHECKOUT
    spec = importlib.util.spec_from_file_location("pointer_lookup", path)
    if spec is None or spec.loader is None or not path.exists():
        raise ConfigurationError(f"the demo's agent is missing at {path}; reinstall agentlightning")
    module = importlib.util.module_from_spec(spec)
    with needed_for("the demo's agent"):
        spec.loader.exec_module(module)
    agent = module.pointer_lookup
    agent.__module__ = __name__  # it can be sent to other processes, which find it here
    return agent


def __getattr__(name: str) -> Any:
    if name != "pointer_lookup":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_agent()
