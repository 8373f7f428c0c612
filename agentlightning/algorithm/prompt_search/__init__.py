"""What the algorithms that search for prompts share: a journal, evaluations, and the model that writes prompts."""

from agentlightning.algorithm.prompt_search.evaluator import PromptEvaluator, Scored
from agentlightning.algorithm.prompt_search.journal import Journal

__all__ = ["Journal", "PromptEvaluator", "Scored"]
