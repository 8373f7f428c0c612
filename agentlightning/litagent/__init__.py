"""Agents: a class to override, a function to decorate, or any program."""

from agentlightning.litagent.calling import GivenResources, is_async_callable, resolve_proxies
from agentlightning.litagent.command import CommandAgent, CommandRun
from agentlightning.litagent.decorator import FunctionalLitAgent, llm_rollout, prompt_rollout, rollout
from agentlightning.litagent.litagent import LitAgent

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
