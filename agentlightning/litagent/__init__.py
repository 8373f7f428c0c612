"""Agents: a class to override, a function to decorate, or any program.

What it takes to run programs is imported when it is first used.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning._internal.lazy import getter_of
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

__getattr__ = getter_of(__name__, Path(__file__))
