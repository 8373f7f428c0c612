"""Runners: claim rollouts, run the agent, record how it went."""

from agentlightning.runner.agent import LitAgentRunner
from agentlightning.runner.base import Runner
from agentlightning.runner.terminating import terminating

__all__ = ["LitAgentRunner", "Runner", "terminating"]
