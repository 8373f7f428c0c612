"""GEPA: prompts evolve by reflection on what went wrong."""

from agentlightning.algorithm.gepa.algorithm import GEPA

__all__ = ["GEPA"]
