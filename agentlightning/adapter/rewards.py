"""Rewards as recorded, and what can become of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from agentlightning.emitter import get_reward_value, get_rewards_from_span
from agentlightning.errors import ConfigurationError
from agentlightning.types import Span


class RewardMatchPolicy(StrEnum):
    """How a reward without links finds its call, unless it stands in a call's own span and so is that call's.

    One with links goes to the last call they lead to, and to no other.
    """

    FIRST_OCCURRENCE = "first_occurrence"
    """To calls before it, in the smallest subtree around it that has any: rewards in a row go, in their order, to the
    last calls since the rewards before them."""
    FIRST_SIBLING = "first_sibling"
    """As the first, but only to calls with the reward's own parent."""
    BACK_FILL = "back_fill"
    """Each to the latest call before it, by sequence id, without a reward; later rewards fill up earlier calls."""
    FINAL = "final"
    """Only the last reward of an attempt counts: it goes to the last call before it; earlier ones with links count as
    little."""


def to_policy(value: str) -> RewardMatchPolicy:
    """Return the policy of a name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return RewardMatchPolicy(value)
    except ValueError:
        raise ConfigurationError(f"reward_match={value!r}: write {', '.join(RewardMatchPolicy)}") from None


class CreditRule(StrEnum):
    """The rule by which a call got its reward."""

    OWN = "own"
    LINK = "link"
    SUBTREE = "subtree"
    SEQUENCE = "sequence"
    SIBLING = "sibling"
    BACK_FILL = "back_fill"
    FINAL = "final"


class Unmatched(StrEnum):
    """Why no call got a reward."""

    NO_LINKED_CALL = "its links lead to no call"
    NO_CALL_BEFORE = "no call stands before it"
    TAKEN = "the calls it could go to have rewards already"
    NOT_TRAINED = "the calls it stands with are of agents that are not trained"
    NOT_FINAL = "it is not the last reward"


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward as recorded.

    Attributes:
        span: The span that carries it.
        value: The primary dimension.
        dimensions: All dimensions by name, the primary one first.
    """

    span: Span
    value: float
    dimensions: dict[str, float]


@dataclass(frozen=True, slots=True)
class GivenReward:
    """A reward that a call got, and by which rule."""

    reward: Reward
    rule: CreditRule


@dataclass(frozen=True, slots=True)
class UnmatchedReward:
    """A reward that no call got, and why."""

    reward: Reward
    reason: Unmatched


@dataclass(frozen=True, slots=True)
class Credit:
    """What became of the rewards of a rollout: each stands in one of the two, once.

    Attributes:
        given: The rewards by the index of their call.
        unmatched: The rewards that no call got, in order.
    """

    given: dict[int, GivenReward] = field(default_factory=dict[int, GivenReward])
    unmatched: list[UnmatchedReward] = field(default_factory=list[UnmatchedReward])


def find_rewards(spans: Iterable[Span]) -> list[Reward]:
    """Return the rewards among the spans, in their order."""
    values = ((span, get_reward_value(span)) for span in spans)
    return [Reward(span, value, _dimensions(span, value)) for span, value in values if value is not None]


def _dimensions(span: Span, value: float) -> dict[str, float]:
    dimensions: dict[str, float] = {}
    for each in get_rewards_from_span(span):
        dimensions.setdefault(each.name, each.value)  # of two of one name the first counts, as for the primary one
    return dimensions or {"primary": value}
