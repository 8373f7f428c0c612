"""Runners: claim rollouts, run the agent, record how it went."""

from typing import NoReturn

from agentlightning import _compat
from agentlightning.runner.agent import LitAgentRunner
from agentlightning.runner.base import Runner
from agentlightning.runner.terminating import terminating

__all__ = ["LitAgentRunner", "Runner", "terminating"]


def __getattr__(name: str) -> NoReturn:
    _compat.raise_ended(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
