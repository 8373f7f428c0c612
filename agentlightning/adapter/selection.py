"""Which calls count: those of the agents that are trained, outside of the computation of rewards."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

from agentlightning.adapter.place import Place, Places
from agentlightning.errors import ConfigurationError
from agentlightning.types import LLMCall

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TracedCall:
    """One answered request to a model, and the agent that made it.

    Attributes:
        answers: The records of its answers, one unless the request asked for more.
        agent: Name of the nearest agent; None when no span names one.
        in_reward: Whether it was made to compute a reward.
    """

    answers: tuple[LLMCall, ...]
    agent: str | None
    in_reward: bool = False

    @property
    def first(self) -> LLMCall:
        """The first answer, which stands for the request."""
        return self.answers[0]

    @property
    def span_ids(self) -> tuple[str, ...]:
        """All spans that saw the call, the one it is read from first."""
        return span_ids_of(self.first)

    @property
    def has_tokens(self) -> bool:
        """Whether the tokens of the prompt and of every answer are known."""
        return all(answer.prompt_token_ids and answer.response_token_ids for answer in self.answers)


def select_calls(
    places: Places,
    requests: Iterable[tuple[LLMCall, ...]],
    *,
    llm_call_match: str | None = None,
    exclude_in_reward: bool = False,
) -> list[TracedCall]:
    """Return the calls that match, in their order.

    Args:
        places: Where the spans stand that saw the calls.
        requests: The answers to each request.
        llm_call_match: Only calls that a span saw with a name that this expression finds.
        exclude_in_reward: Leave out calls made to compute a reward.
    """
    selected: list[TracedCall] = []
    other_names: set[str] = set()
    for answers in requests:
        sightings = places.of(span_ids_of(answers[0]))
        names = {each.node.span.name for each in sightings}
        if llm_call_match is not None and not any(re.search(llm_call_match, name) for name in names):
            other_names |= names
            continue
        in_reward = any(each.in_reward for each in sightings)
        if not (exclude_in_reward and in_reward):
            selected.append(TracedCall(answers, _agent(sightings), in_reward))
    if other_names and not selected:
        logger.warning(
            "llm_call_match=%r finds no call; theirs are the spans %s. Without it all calls are taken.",
            llm_call_match,
            sorted(other_names),
        )
    return selected


def check_expression(name: str, expression: str | None) -> None:
    """Refuse an argument that is no regular expression.

    Raises:
        ConfigurationError: It cannot be read as one.
    """
    try:
        re.compile(expression or "")
    except re.error as error:
        raise ConfigurationError(f"{name}={expression!r} is no regular expression: {error}") from error


def of_agents(calls: Iterable[TracedCall], agent_match: str | None) -> tuple[list[TracedCall], list[TracedCall]]:
    """Return the calls whose nearest agent has a name that the expression finds, all if it is None; and the others."""
    found: list[TracedCall] = []
    others: list[TracedCall] = []
    for call in calls:
        matches = agent_match is None or (call.agent is not None and re.search(agent_match, call.agent))
        (found if matches else others).append(call)
    return found, others


def span_ids_of(call: LLMCall) -> tuple[str, ...]:
    """Return all spans that saw the call, the one it is read from first."""
    return call.span_ids or (call.span_id,)


def _agent(sightings: Iterable[Place]) -> str | None:
    """Of those who saw a call, the one that stands deepest knows best who made it."""
    named = [each for each in sightings if each.agent is not None]
    return max(named, key=lambda each: each.depth).agent if named else None
