"""What model calls took: tokens, and money where prices are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentlightning.adapter import llm_calls
from agentlightning.errors import ConfigurationError
from agentlightning.types import LLMCall, Span


@dataclass(frozen=True, slots=True)
class Usage:
    """What model calls took.

    Attributes:
        calls: How many calls were seen.
        prompt_tokens: Tokens that the models were given.
        completion_tokens: Tokens that they sampled.
        uncounted: Calls whose tokens nobody counted; they are not in the sums.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.uncounted + other.uncounted,
        )


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any currency.

    Attributes:
        prompt: A million prompt tokens.
        completion: A million completion tokens.

    Raises:
        ConfigurationError: A price is no number of at least 0.
    """

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        if not all(0 <= price < float("inf") for price in (self.prompt, self.completion)):
            raise ConfigurationError(f"prices must be at least 0, not {self.prompt} and {self.completion}")

    def cost(self, usage: Usage) -> float:
        """Return what calls cost."""
        return (self.prompt * usage.prompt_tokens + self.completion * usage.completion_tokens) / 1e6


def total(usages: Iterable[Usage]) -> Usage:
    """Return the sum."""
    return sum(usages, Usage())


def usage_of(spans: Sequence[Span]) -> Usage:
    """Count the tokens of the model calls among the spans of a rollout."""
    answers: dict[str, list[LLMCall]] = {}
    for call in llm_calls(spans):
        answers.setdefault(call.span_id, []).append(call)
    return total(map(_usage, answers.values()))


def _usage(answers: Sequence[LLMCall]) -> Usage:
    """Return what one request took: as its backend says, else as its tokens do.

    Its answers share their prompt, and what the backend says is of all of them.
    """
    said: dict[str, Any] = answers[0].response.get("usage") or {}
    prompt = said.get("prompt_tokens", said.get("input_tokens", len(answers[0].prompt_token_ids)))
    sampled = sum(len(answer.response_token_ids) for answer in answers)
    completion = said.get("completion_tokens", said.get("output_tokens", sampled))
    if not prompt and not completion:
        return Usage(calls=1, uncounted=1)
    return Usage(1, int(prompt or 0), int(completion or 0))
