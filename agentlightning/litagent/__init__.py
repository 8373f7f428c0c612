"""Agents: a class to override or a function to decorate."""

from agentlightning.litagent.calling import GivenResources, is_async_callable, resolve_proxies
from agentlightning.litagent.decorator import FunctionalLitAgent, llm_rollout, prompt_rollout, rollout
from agentlightning.litagent.litagent import LitAgent

__all__ = [
    "FunctionalLitAgent",
    "GivenResources",
    "LitAgent",
    "is_async_callable",
    "llm_rollout",
    "prompt_rollout",
    "resolve_proxies",
    "rollout",
]
