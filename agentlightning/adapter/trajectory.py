"""Training rows: calls whose prompts extend each other, token for token, become one sequence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agentlightning.adapter.base import TraceAdapter
from agentlightning.adapter.garbage import collected_afterwards
from agentlightning.adapter.history import AttemptHistory
from agentlightning.adapter.prefix_break import BreakKind, PrefixBreak
from agentlightning.adapter.selection import TracedCall, check_expression, of_agents
from agentlightning.adapter.tree import select_from_spans
from agentlightning.types import LLMCall, Span, TrainingRow


@dataclass(slots=True)
class MergeCounters:
    """What became of the calls; `merged + rows + calls_without_tokens == calls`.

    Attributes:
        calls: All calls.
        merged: Calls that extended a row.
        rows: Rows, each opened by one call.
        broken_prefixes: Rows opened by a call that went on from a row's answer, but with other tokens: the agent
            rendered its history anew and the tokenizer, the template or the agent did not give them back.
        broken_by_kind: The same by what changed; its values add up to `broken_prefixes`.
        calls_without_tokens: Calls that cannot be trained on, because the backend named no tokens or sampled none.
        calls_in_rewards: Answers left out because they were made to compute a reward; not among `calls`.
    """

    calls: int = 0
    merged: int = 0
    rows: int = 0
    broken_prefixes: int = 0
    broken_by_kind: Counter[BreakKind] = field(default_factory=Counter[BreakKind])
    calls_without_tokens: int = 0
    calls_in_rewards: int = 0


@dataclass(frozen=True, slots=True)
class Trajectories:
    """The rows of some calls, in the order in which they were opened, what was counted, and each broken prefix."""

    rows: list[TrainingRow]
    counters: MergeCounters
    breaks: list[PrefixBreak] = field(default_factory=list[PrefixBreak])


class TraceToTrajectories(TraceAdapter[list[TrainingRow]]):
    """Turns the spans of a rollout into training rows.

    Args:
        agent_match: Regular expression that finds the names of the agents to train; None trains them all.

    Raises:
        ConfigurationError: The expression cannot be read.
    """

    def __init__(self, agent_match: str | None = None) -> None:
        check_expression("agent_match", agent_match)
        self.agent_match = agent_match

    def adapt(self, source: Sequence[Span], /) -> list[TrainingRow]:
        """Return the rows of the model calls among the spans."""
        return self.read(source).rows

    @collected_afterwards()
    def read(self, source: Sequence[Span]) -> Trajectories:
        """Return the rows with what was counted and each broken prefix."""
        calls = _calls_of_agents(source, self.agent_match)
        merged = merge_calls(_answers(call for call in calls if not call.in_reward))
        merged.counters.calls_in_rewards = len(_answers(call for call in calls if call.in_reward))
        return merged


def calls_to_train(spans: Sequence[Span], agent_match: str | None = None) -> list[LLMCall]:
    """Return the calls of the agents whose names the expression finds, but for those made to compute a reward."""
    return _answers(call for call in _calls_of_agents(spans, agent_match) if not call.in_reward)


def _calls_of_agents(spans: Sequence[Span], agent_match: str | None) -> list[TracedCall]:
    return of_agents(select_from_spans(spans, exclude_in_reward=False)[1], agent_match)[0] if spans else []


def _answers(calls: Iterable[TracedCall]) -> list[LLMCall]:
    return [answer for call in calls for answer in call.answers]


@collected_afterwards()
def merge_calls(calls: Iterable[LLMCall]) -> Trajectories:
    """Merge calls by exact token prefix.

    A call whose prompt starts with all tokens of a row of its attempt extends the longest such row; otherwise it
    opens a row. All rows stay open, so sub-agents that take turns each find their own. The mask marks each sampled
    token in exactly one row, behind the context it was sampled in; nothing is patched or tokenised again.
    """
    merged = Trajectories([], MergeCounters())
    histories: dict[tuple[str, str], AttemptHistory] = {}
    for call in calls:
        merged.counters.calls += 1
        if call.prompt_token_ids and call.response_token_ids:
            history = histories.setdefault((call.rollout_id, call.attempt_id), AttemptHistory())
            _merge(call, history, merged)
        else:
            merged.counters.calls_without_tokens += 1
    return merged


def _merge(call: LLMCall, history: AttemptHistory, merged: Trajectories) -> None:
    index, broken = history.place(call, new_row=len(merged.rows))
    if index < len(merged.rows):
        merged.counters.merged += 1
        _extend(merged.rows[index], call)
    else:
        merged.counters.rows += 1
        merged.rows.append(_row(call, call.prompt_token_ids))
    if broken is not None:
        merged.breaks.append(broken)
        merged.counters.broken_prefixes += 1
        merged.counters.broken_by_kind[broken.kind] += 1


def _extend(row: TrainingRow, call: LLMCall) -> None:
    end = _row(call, call.prompt_token_ids[len(row.token_ids) :])
    row.token_ids += end.token_ids
    row.mask += end.mask
    row.logprobs += end.logprobs
    row.temperatures += end.temperatures
    row.weights_versions += end.weights_versions


def _row(call: LLMCall, context: list[int]) -> TrainingRow:
    """Return what a call sampled, behind its context."""
    read, sampled = len(context), len(call.response_token_ids)
    version = -1 if call.weights_version is None else call.weights_version
    # Log-probabilities nobody knows are NaN, so that using them cannot go unnoticed.
    logprobs = call.response_logprobs or [math.nan] * sampled
    return TrainingRow(
        rollout_id=call.rollout_id,
        attempt_id=call.attempt_id,
        token_ids=context + call.response_token_ids,
        mask=[False] * read + [True] * sampled,
        logprobs=[0.0] * read + logprobs,
        temperatures=[1.0] * read + [call.temperature] * sampled,
        weights_versions=[-1] * read + [version] * sampled,
    )
