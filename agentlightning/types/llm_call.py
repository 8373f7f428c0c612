"""One record of a model call, and the training row made of several.

Whatever captured a call (the gateway, an instrumented SDK, an imported trace), it becomes one `LLMCall`, with request
and answer in the shape of OpenAI's chat completions; adapters and learners read nothing else. Nothing is ever
tokenised again on the way to training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMCall:
    """One completed model call with its exact tokens.

    Attributes:
        rollout_id: The rollout that made the call.
        attempt_id: The attempt that made the call.
        sequence_id: Position among the rollout's spans; calls are ordered by it, then by `start_time`.
        start_time: Unix seconds at which the request arrived.
        end_time: Unix seconds at which the answer was complete.
        prompt_token_ids: The tokens the model was given.
        response_token_ids: The tokens the model sampled.
        response_logprobs: Natural-log probability of each sampled token under the distribution it was sampled
            from; None when the backend gave none. As long as `response_token_ids`.
        temperature: Sampling temperature as sent; 1.0 when the request named none.
        sampling: The sampling parameters as sent.
        finish_reason: `stop`, `length`, `tool_calls` and so on.
        weights_version: Version of the weights that sampled the answer; None when the backend does not say.
        model: The model's name as requested.
        response_id: The id the backend gave the answer.
        choice: Index of this answer among the `n` of one request.
        messages: The request's messages as sent.
        message: The answer's message as received.
        tools: The request's tools as sent.
        response: What else the answer said: `model`, `usage`, `system_fingerprint` and so on.
        streamed: Whether the answer came in pieces.
        source: Who captured the call: `gateway`, `openinference`, `agentops`, `operation`, `litellm`, `gen_ai`.
        span_id: The span this record was read from.
        span_ids: All spans that saw the call, `span_id` first: rewards link to any, and an SDK's knows its agent.
    """

    rollout_id: str
    attempt_id: str
    sequence_id: int
    start_time: float
    end_time: float
    prompt_token_ids: list[int]
    response_token_ids: list[int]
    response_logprobs: list[float] | None = None
    temperature: float = 1.0
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    finish_reason: str | None = None
    weights_version: int | None = None
    model: str | None = None
    response_id: str | None = None
    choice: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    message: dict[str, Any] = field(default_factory=dict[str, Any])
    tools: list[dict[str, Any]] | None = None
    response: dict[str, Any] = field(default_factory=dict[str, Any])
    streamed: bool = False
    source: str = ""
    span_id: str = ""
    span_ids: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class TrainingRow:
    """One training sequence: a history of calls, each extending the tokens of the one before.

    All lists are as long as `token_ids` (length L). Position i describes token i itself, not the prediction at i.

    Attributes:
        rollout_id: The rollout whose reward this row carries.
        attempt_id: The attempt it was read from.
        token_ids: Prompt, sampled and appended tokens in order. Shape (L,).
        mask: True exactly on the tokens that the model sampled. Shape (L,).
        logprobs: Log-probability of each sampled token when it was sampled, 0.0 elsewhere. Shape (L,).
        temperatures: Temperature at which each token was sampled, 1.0 elsewhere. Shape (L,).
        weights_versions: Weights version of each sampled token, -1 elsewhere or when unknown. Shape (L,).
    """

    rollout_id: str
    attempt_id: str
    token_ids: list[int]
    mask: list[bool]
    logprobs: list[float]
    temperatures: list[float]
    weights_versions: list[int]
