"""What the spans of a rollout say of its model calls: who saw each, which reading is used, which calls failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentlightning.types import LLMCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One span that saw a model call.

    Attributes:
        span_id: The span.
        name: The span's name.
        source: The form it is written in, as in `LLMCall.source`.
        scope: The library that wrote it, such as `openinference.instrumentation.openai`; None when unknown.
        answers: What it says, one record per answer; empty for a call that failed.
        failure: Why there is no answer; None when there is one.
        silent: Whether there is no answer though nothing failed: the library kept none.
        response_id: The id of the response, if the span names one, also of an answer that broke off.
    """

    span_id: str
    name: str
    source: str
    scope: str | None = None
    answers: tuple[LLMCall, ...] = ()
    failure: str | None = None
    silent: bool = False
    response_id: str | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether every answer has the tokens of its prompt and its own."""
        return bool(self.answers) and all(each.prompt_token_ids and each.response_token_ids for each in self.answers)

    @property
    def has_logprobs(self) -> bool:
        """Whether every answer has a log-probability for each of its tokens."""
        return bool(self.answers) and all(each.response_logprobs is not None for each in self.answers)

    @property
    def streamed(self) -> bool:
        """Whether the answer came in pieces."""
        return any(each.streamed for each in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCall:
    """One request to a model, by everybody who saw it.

    Attributes:
        answers: The records that stand for the call, one per answer; empty for a call that failed.
        sightings: Who saw it, the one that is used first; what the others say is dropped as a copy.
    """

    answers: tuple[LLMCall, ...]
    sightings: tuple[Sighting, ...]

    @property
    def failure(self) -> str | None:
        """Why there is no answer; None when there is one."""
        return None if self.answers else self.sightings[0].failure


@dataclass(frozen=True, slots=True)
class CallReading:
    """All requests to models among some spans, in order."""

    seen: Sequence[SeenCall]

    @property
    def calls(self) -> list[LLMCall]:
        """The records of the calls that were answered, one per answer."""
        return [answer for each in self.seen for answer in each.answers]

    @property
    def failed(self) -> list[SeenCall]:
        """The calls that got no answer; they are no training data and never rewarded."""
        return [each for each in self.seen if not each.answers]
