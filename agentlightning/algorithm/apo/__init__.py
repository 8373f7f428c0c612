"""APO: prompts that get better by critiques of what they led to, in a beam search (arXiv:2305.03495)."""

from agentlightning.algorithm.apo.apo import APO
from agentlightning.algorithm.apo.candidate import Candidate, Score
from agentlightning.algorithm.apo.history import History

__all__ = ["APO", "Candidate", "History", "Score"]
