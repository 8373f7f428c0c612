"""Triplets: each model call as prompt, response and reward, for programs that work call by call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentlightning.adapter.base import TraceAdapter
from agentlightning.adapter.llm_call import in_order, llm_calls
from agentlightning.emitter import find_final_reward, get_reward_value
from agentlightning.types import LLMCall, Span, Triplet


class TraceToTripletBase(TraceAdapter[list[Triplet]]):
    """Turns the spans of a rollout into triplets, one for each answer of a model, in order.

    Prompt and response are `{"token_ids", "raw_content"}`, the response with `logprobs` where they are known.
    Subclasses say which answer gets which reward.
    """

    def adapt(self, source: Sequence[Span], /) -> list[Triplet]:
        """Return a triplet for each model call among the spans."""
        calls = llm_calls(source)
        rewards = self._rewards(calls, in_order(source))
        return [_triplet(call, rewards.get(index)) for index, call in enumerate(calls)]

    def _rewards(self, calls: Sequence[LLMCall], spans: Sequence[Span]) -> dict[int, float]:
        """Return the rewards by the index of their call."""
        raise NotImplementedError(f"{type(self).__name__} must say which call gets which reward")


class TracerTraceToTriplet(TraceToTripletBase):
    """Gives the rollout's final reward to its last call."""

    def _rewards(self, calls: Sequence[LLMCall], spans: Sequence[Span]) -> dict[int, float]:
        reward = find_final_reward(spans)
        return {} if reward is None or not calls else {len(calls) - 1: reward}


class LlmProxyTraceToTriplet(TraceToTripletBase):
    """Gives each reward to the latest call before it that has none yet, by sequence id and never by clock."""

    def _rewards(self, calls: Sequence[LLMCall], spans: Sequence[Span]) -> dict[int, float]:
        rewards: dict[int, float] = {}
        for span in spans:
            reward = get_reward_value(span)
            if reward is None:
                continue
            earlier = (i for i, call in enumerate(calls) if call.sequence_id < span.sequence_id and i not in rewards)
            latest = max(earlier, default=None)
            if latest is not None:
                rewards[latest] = reward
        return rewards


def _triplet(call: LLMCall, reward: float | None) -> Triplet:
    response: dict[str, Any] = {"token_ids": call.response_token_ids, "raw_content": [call.message]}
    if call.response_logprobs is not None:
        response["logprobs"] = call.response_logprobs
    return Triplet(
        prompt={"token_ids": call.prompt_token_ids, "raw_content": call.messages},
        response=response,
        reward=reward,
        metadata={"response_id": call.response_id, "request": {"model": call.model, **call.sampling}},
    )
