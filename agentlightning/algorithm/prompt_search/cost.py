"""What a search for prompts took."""

from __future__ import annotations

import time

from agentlightning.algorithm.prompt_search.evaluator import PromptEvaluator
from agentlightning.algorithm.prompt_search.writer import Writer


class Cost:
    """Counts what a search takes; it begins when this is made.

    Args:
        evaluator: Says how many rollouts it took.
        writer: Says what models answered.
    """

    def __init__(self, evaluator: PromptEvaluator, writer: Writer) -> None:
        self._evaluator = evaluator
        self._writer = writer
        self._started = time.monotonic()

    def record(self) -> dict[str, float]:
        """Return what it took so far; what an earlier process of the run paid for is in it, but for its seconds."""
        replies = self._writer.replies
        return {
            "rollouts": self._evaluator.rollouts + self._evaluator.reused,
            "reused": self._evaluator.reused,
            "model_calls": len(replies),
            "retries": self._writer.retries,
            "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
            "completion_tokens": sum(reply.completion_tokens for reply in replies),
            "seconds": round(time.monotonic() - self._started, 3),
        }
