"""The OpenAI-shaped requests that the server reads. Fields that are not listed here are ignored."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, Field

from agentlightning.errors import InvalidRequest
from agentlightning.inference.sampler import SamplingParams

_NEUTRAL: Final[dict[str, Any]] = {
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "min_p": 0,
    "logit_bias": {},
}
"""What the engine cannot do, with the values that ask for nothing."""


class StreamOptions(BaseModel):
    """What a stream holds beside the answer.

    Attributes:
        include_usage: End it with a chunk that counts the tokens.
    """

    include_usage: bool = False


class GenerationRequest(BaseModel):
    """What both endpoints share.

    Attributes:
        top_k: Not OpenAI's; as in vLLM, like `repetition_penalty` and `min_p`.
        return_token_ids: Add the exact tokens of prompt and answer to the reply; as in vLLM.
    """

    model: str
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int = Field(default=1, ge=1, le=128)
    return_token_ids: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    repetition_penalty: float | None = None
    min_p: float | None = None

    def answer_limit(self) -> int | None:
        """Most tokens of an answer."""
        return self.max_tokens

    def stop_strings(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wants_usage(self) -> bool:
        """Whether a stream ends with the count of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> list[SamplingParams]:
        """Return the parameters of each of the `n` answers; each has a seed of its own if a seed is given.

        Raises:
            InvalidRequest: A value is out of range.
        """
        return [
            SamplingParams(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                top_k=max(self.top_k or 0, 0),  # -1 is vLLM's way to turn it off
                max_tokens=self.answer_limit(),
                stop=self.stop_strings(),
                seed=None if self.seed is None else self.seed + index,
            )
            for index in range(self.n)
        ]

    def check_supported(self) -> None:
        """Refuse what would change the answer if it were ignored.

        Raises:
            InvalidRequest: Names the field.
        """
        for name, neutral in _NEUTRAL.items():
            if getattr(self, name) not in (None, neutral):
                raise InvalidRequest(f"{name} is not supported: leave it out")


class ChatRequest(GenerationRequest):
    """Body of `POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None

    def answer_limit(self) -> int | None:
        """Most tokens of an answer, under either of its names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def offered_tools(self) -> list[dict[str, Any]] | None:
        """The tools that the model may call."""
        return None if self.tool_choice == "none" else self.tools or None

    def check_supported(self) -> None:
        """Refuse what would change the answer if it were ignored."""
        super().check_supported()
        if self.tool_choice not in (None, "auto", "none"):
            raise InvalidRequest("tool_choice may be auto or none: this server cannot force a call")
        if self.top_logprobs:
            raise InvalidRequest("top_logprobs must be 0: only the sampled token's log-probability is known")
        if self.response_format and self.response_format.get("type") != "text":
            raise InvalidRequest("response_format may only be text: this server cannot constrain the answer")


class CompletionRequest(GenerationRequest):
    """Body of `POST /v1/completions`.

    Attributes:
        logprobs: 0 or 1, and either way those of the sampled tokens only: `top_logprobs` in the reply is null.
    """

    prompt: str | list[int]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    def check_supported(self) -> None:
        """Refuse what would change the answer if it were ignored."""
        super().check_supported()
        if self.logprobs not in (None, 0, 1):
            raise InvalidRequest("logprobs must be 0 or 1: only the sampled token's log-probability is known")
        for name in ("echo", "suffix"):
            if getattr(self, name):
                raise InvalidRequest(f"{name} is not supported: leave it out")
        if self.best_of not in (None, self.n):
            raise InvalidRequest("best_of is not supported: ask for n answers and choose")
