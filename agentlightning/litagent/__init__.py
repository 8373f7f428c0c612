"""Agents: a class to override, a function to decorate, or any program.

What it takes to run programs is imported when it is first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning._internal.lazy import names_for_type_checkers
from agentlightning.litagent.calling import GivenResources, is_async_callable, resolve_proxies
from agentlightning.litagent.decorator import FunctionalLitAgent, llm_rollout, prompt_rollout, rollout
from agentlightning.litagent.litagent import LitAgent

if TYPE_CHECKING:
    from agentlightning.litagent.command import CommandAgent, CommandRun

__all__ = [
    "CommandAgent",
    "CommandRun",
    "FunctionalLitAgent",
    "GivenResources",
    "LitAgent",
    "is_async_callable",
    "llm_rollout",
    "prompt_rollout",
    "resolve_proxies",
    "rollout",
]

_HOMES = names_for_type_checkers(Path(__file__))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
