"""Triplets: each model call as prompt, response and reward, for programs that work call by call."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan
from pydantic import BaseModel

from agentlightning.adapter.base import TraceAdapter
from agentlightning.adapter.call_triplet import to_triplets
from agentlightning.adapter.credit import assign_in_places
from agentlightning.adapter.garbage import collected_afterwards
from agentlightning.adapter.rewards import RewardMatchPolicy, UnmatchedReward, to_policy
from agentlightning.adapter.selection import check_expression, of_agents
from agentlightning.adapter.tree import TraceTree, select_from_spans
from agentlightning.types import Span, Triplet

__all__ = [
    "LlmProxyTraceToTriplet",
    "RewardMatchPolicy",
    "TraceToTripletBase",
    "TraceTree",
    "TracerTraceToTriplet",
    "Transition",
    "TripletReading",
]

logger = logging.getLogger(__name__)


class Transition(BaseModel):
    """One model call in the words of reinforcement learning."""

    state: list[int]
    action: list[int]
    response_id: str | None
    agent_name: str
    reward: float | None


@dataclass(frozen=True, slots=True)
class TripletReading:
    """The triplets of a rollout, in order, and the rewards that belong to none of them."""

    triplets: list[Triplet] = field(default_factory=list[Triplet])
    unmatched: list[UnmatchedReward] = field(default_factory=list[UnmatchedReward])


class TraceToTripletBase(TraceAdapter[list[Triplet]]):
    """Turns the spans of a rollout into triplets, one for each answer of a model, in order.

    `prompt` has `token_ids`, `raw_content` and `image_urls`, `response` has `token_ids`, `raw_content` and, where they
    are known, `logprobs`. `metadata` has `request`, `response`, `response_id` and `agent_name`; with a reward also
    `rewards`, all its dimensions by name, and `reward_rule`, the rule by which the call got it.
    """

    def adapt(self, source: Sequence[Span] | Sequence[ReadableSpan], /) -> list[Triplet]:
        """Return a triplet for each model call among the spans; a log line says which rewards matched none."""
        reading = self.read(source)
        if reading.unmatched:
            first = reading.unmatched[0]
            logger.warning(
                "%d rewards of rollout %s match no model call; the first is %s: %s",
                len(reading.unmatched),
                first.reward.span.rollout_id,
                first.reward.value,
                first.reason.value,
            )
        return reading.triplets

    def read(self, source: Sequence[Span] | Sequence[ReadableSpan], /) -> TripletReading:
        """Return the triplets and the rewards that match none."""
        raise NotImplementedError(f"{type(self).__name__} must say which call gets which reward")


class TracerTraceToTriplet(TraceToTripletBase):
    """Takes the calls of the agents that are trained, whoever saw them; rewards are matched by links, then by place.

    Args:
        repair_hierarchy: Put calls that stand outside of every agent below the span that was open around them.
        llm_call_match: Only calls that a span saw with a name that this expression finds (`re.search`); all by default.
        agent_match: Only calls whose nearest agent has a name that this expression finds; all by default.
        exclude_llm_call_in_reward: Leave out calls made to compute a reward.
        reward_match: Which call gets which reward.

    Raises:
        ConfigurationError: An expression cannot be read, or there is no such policy.
    """

    def __init__(
        self,
        repair_hierarchy: bool = True,
        llm_call_match: str | None = None,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,
        reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
        _skip_empty_token_spans: bool = False,
    ) -> None:
        check_expression("llm_call_match", llm_call_match)
        check_expression("agent_match", agent_match)
        self.repair_hierarchy = repair_hierarchy
        self.llm_call_match = llm_call_match
        self.agent_match = agent_match
        self.exclude_llm_call_in_reward = exclude_llm_call_in_reward
        self.reward_match = to_policy(reward_match)
        self._skip_empty_token_spans = _skip_empty_token_spans

    def visualize(
        self,
        source: Sequence[Span] | Sequence[ReadableSpan],
        /,
        filename: str = "trace_tree",
        interested_span_match: str | None = None,
    ) -> TraceTree:
        """Write the tree of the spans to `<filename>.dot` and return it; see `TraceTree.visualize`."""
        tree = TraceTree.from_spans(_spans(source))
        if self.repair_hierarchy:
            tree.repair_hierarchy()
        tree.visualize(filename, interested_span_match)
        return tree

    @collected_afterwards()
    def read(self, source: Sequence[Span] | Sequence[ReadableSpan], /) -> TripletReading:
        """Return the triplets and the rewards that match none."""
        if not source:
            return TripletReading()
        places, everybody = select_from_spans(
            _spans(source),
            llm_call_match=self.llm_call_match,
            exclude_in_reward=self.exclude_llm_call_in_reward,
            repair_hierarchy=self.repair_hierarchy,
        )
        calls, others = of_agents(everybody, self.agent_match)
        if self._skip_empty_token_spans:
            calls = [call for call in calls if call.has_tokens]
        credit = assign_in_places(places, calls, self.reward_match, others)
        return TripletReading(to_triplets(calls, credit), credit.unmatched)


class LlmProxyTraceToTriplet(TraceToTripletBase):
    """Takes the calls with tokens; a reward goes to the latest call before it that has none, never by the clock."""

    @collected_afterwards()
    def read(self, source: Sequence[Span] | Sequence[ReadableSpan], /) -> TripletReading:
        """Return the triplets and the rewards that match none."""
        if not source:
            return TripletReading()
        places, calls = select_from_spans(_spans(source), exclude_in_reward=False, repair_hierarchy=False)
        calls = [call for call in calls if call.has_tokens]
        credit = assign_in_places(places, calls, RewardMatchPolicy.BACK_FILL)
        return TripletReading(to_triplets(calls, credit), credit.unmatched)


def _spans(source: Sequence[Span] | Sequence[ReadableSpan]) -> list[Span]:
    """Spans of the OpenTelemetry SDK belong to no rollout, and only their times order them."""
    return [span if isinstance(span, Span) else Span.from_opentelemetry(span, "", "", 0) for span in source]
