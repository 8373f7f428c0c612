"""Command agents: any program, in any language, as an agent."""

from agentlightning.litagent.command.agent import CommandAgent, CommandRun

__all__ = ["CommandAgent", "CommandRun"]
