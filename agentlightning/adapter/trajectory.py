"""Training rows: calls whose prompts extend each other, token for token, become one sequence."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentlightning.adapter.base import TraceAdapter
from agentlightning.adapter.llm_call import llm_calls
from agentlightning.types import LLMCall, Span, TrainingRow


@dataclass(slots=True)
class MergeCounters:
    """What became of the calls; `merged + rows + calls_without_tokens == calls`.

    Attributes:
        calls: All calls.
        merged: Calls that extended a row.
        rows: Rows, each opened by one call.
        broken_prefixes: Rows opened by a call that went on from a row's answer, but with other tokens than were
            sampled: the agent rendered its history anew and the tokenizer or the template did not give them back.
        calls_without_tokens: Calls that cannot be trained on, because the backend named no tokens or sampled none.
    """

    calls: int = 0
    merged: int = 0
    rows: int = 0
    broken_prefixes: int = 0
    calls_without_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Trajectories:
    """The rows of some calls, in the order in which they were opened, and what was counted on the way."""

    rows: list[TrainingRow]
    counters: MergeCounters


class TraceToTrajectories(TraceAdapter[list[TrainingRow]]):
    """Turns the spans of a rollout into training rows."""

    def adapt(self, source: Sequence[Span], /) -> list[TrainingRow]:
        """Return the rows of all model calls among the spans."""
        return merge_calls(llm_calls(source)).rows


def merge_calls(calls: Iterable[LLMCall]) -> Trajectories:
    """Merge calls by exact token prefix.

    A call whose prompt starts with all tokens of a row of its attempt extends the longest such row; otherwise it
    opens a row. All rows stay open, so sub-agents that take turns each find their own. The mask marks each sampled
    token in exactly one row, behind the context it was sampled in; nothing is patched or tokenised again.
    """
    opened: list[_OpenRow] = []
    counters = MergeCounters()
    for call in calls:
        counters.calls += 1
        if not call.prompt_token_ids or not call.response_token_ids:
            counters.calls_without_tokens += 1
            continue
        prompt = _packed(call.prompt_token_ids)
        same_attempt = [r for r in opened if (r.row.rollout_id, r.row.attempt_id) == (call.rollout_id, call.attempt_id)]
        extended = [each for each in same_attempt if _extends(prompt, each.tokens)]
        if extended:
            counters.merged += 1
            target = max(extended, key=lambda each: len(each.tokens))
        else:
            counters.rows += 1
            counters.broken_prefixes += _breaks_prefix(prompt, same_attempt)
            target = _open_row(call)
            opened.append(target)
        _append_call(target.row, call)
        target.tokens = prompt + _packed(call.response_token_ids)
    return Trajectories([each.row for each in opened], counters)


@dataclass(slots=True)
class _OpenRow:
    """A row and its tokens, packed."""

    row: TrainingRow
    tokens: array[int]


def _packed(token_ids: list[int]) -> array[int]:
    return array("q", token_ids)  # slices of it compare many times faster than those of a list


def _extends(prompt: array[int], tokens: array[int]) -> bool:
    return len(prompt) >= len(tokens) and prompt[: len(tokens)] == tokens


def _breaks_prefix(prompt: array[int], opened: list[_OpenRow]) -> bool:
    """Whether the prompt leaves the rows it follows longest at a token that a model sampled there."""
    common = [_common_length(prompt, each.tokens) for each in opened]
    longest = max(common, default=0)
    return longest < len(prompt) and any(
        length == longest and length < len(each.row.mask) and each.row.mask[length]
        for each, length in zip(opened, common, strict=True)
    )


def _common_length(left: array[int], right: array[int]) -> int:
    """Return the length of the longest common prefix, by bisection."""
    same, differs = 0, min(len(left), len(right)) + 1
    while same + 1 < differs:
        middle = (same + differs) // 2
        if left[same:middle] == right[same:middle]:
            same = middle
        else:
            differs = middle
    return same


def _open_row(call: LLMCall) -> _OpenRow:
    row = TrainingRow(
        rollout_id=call.rollout_id,
        attempt_id=call.attempt_id,
        token_ids=[],
        mask=[],
        logprobs=[],
        temperatures=[],
        weights_versions=[],
    )
    return _OpenRow(row, _packed([]))


def _append_call(row: TrainingRow, call: LLMCall) -> None:
    context = call.prompt_token_ids[len(row.token_ids) :]
    sampled = call.response_token_ids
    # Log-probabilities nobody knows are NaN, so that using them cannot go unnoticed.
    logprobs = call.response_logprobs or [math.nan] * len(sampled)
    version = -1 if call.weights_version is None else call.weights_version
    row.token_ids += context + sampled
    row.mask += [False] * len(context) + [True] * len(sampled)
    row.logprobs += [0.0] * len(context) + logprobs
    row.temperatures += [1.0] * len(context) + [call.temperature] * len(sampled)
    row.weights_versions += [-1] * len(context) + [version] * len(sampled)
