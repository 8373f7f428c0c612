"""What samples tokens: the protocol, the parameters of one request and its result."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from agentlightning.errors import InvalidRequest

FinishReason = Literal["stop", "length"]

MIN_TEMPERATURE = 1e-3
"""Below this, tempered logits lose their precision; only 0 (greedy) is smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample one answer.

    Attributes:
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Keep the fewest most likely tokens whose probabilities reach this sum; 1 keeps all.
        top_k: Keep this many most likely tokens, before `top_p`; 0 keeps all.
        max_tokens: Longest answer in tokens; None, and anything larger, means the rest of the context.
        stop: The answer ends when its text contains one of these strings.
        stop_token_ids: Tokens that end the answer, beyond the model's own end tokens.
        seed: Makes the answer independent of whatever else is sampled; None draws from the engine's generator.

    Raises:
        InvalidRequest: A value is out of its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or MIN_TEMPERATURE <= self.temperature < math.inf):
            raise InvalidRequest(
                f"temperature must be 0 (greedy) or at least {MIN_TEMPERATURE} and finite, not {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise InvalidRequest(f"top_p must be above 0 and at most 1 (which turns it off), not {self.top_p}")
        if self.top_k < 0:
            raise InvalidRequest(f"top_k must be positive, or 0 to turn it off, not {self.top_k}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest(f"max_tokens must be at least 1, not {self.max_tokens}")
        if "" in self.stop:
            raise InvalidRequest("a stop string may not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer of length T.

    Attributes:
        token_ids: The sampled tokens, including the end token if one was sampled. Shape (T,).
        logprobs: Natural-log probability of each token under the distribution it was drawn from, that is after
            temperature, top-k and top-p; at temperature 0 under the model's own distribution. Shape (T,).
        finish_reason: `stop` at an end token or stop string, `length` when the limit of tokens was reached.
        weights_versions: Version of the weights that sampled each token; they differ where the weights were
            updated midway. Shape (T,).
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    weights_versions: list[int]

    @property
    def weights_version(self) -> int:
        """Version of the weights that sampled the first token."""
        return self.weights_versions[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionPart:
    """What of an answer was sampled since the part before it: T tokens, none only in a last part.

    Attributes:
        token_ids: As in `Completion`. Shape (T,).
        logprobs: As in `Completion`. Shape (T,).
        finish_reason: Set in the last part.
        weights_versions: As in `Completion`. Shape (T,).
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason | None
    weights_versions: list[int]


class Sampler(Protocol):
    """Samples answers from weights that a learner updates."""

    @property
    def weights_version(self) -> int:
        """Version of the weights in use."""
        ...

    @property
    def end_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        ...

    async def generate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> Completion:
        """Sample one answer."""
        ...

    def stream(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> AsyncGenerator[CompletionPart]:
        """Sample one answer and yield it part by part; closing the generator ends the sampling."""
        ...

    async def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return each token's log-probability at temperature 1 given those before it; 0.0 for a first token."""
        ...

    async def update_weights(self, state_dict: Mapping[str, torch.Tensor], version: int) -> None:
        """Take these weights for every token sampled after this returns."""
        ...
