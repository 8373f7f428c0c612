"""Training rows: calls whose prompts extend each other, token for token, become one sequence."""

from __future__ import annotations

import math
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
    rows: list[TrainingRow] = []
    counters = MergeCounters()
    for call in calls:
        counters.calls += 1
        if not call.prompt_token_ids or not call.response_token_ids:
            counters.calls_without_tokens += 1
            continue
        same_attempt = [r for r in rows if (r.rollout_id, r.attempt_id) == (call.rollout_id, call.attempt_id)]
        extended = [row for row in same_attempt if _extends(call.prompt_token_ids, row.token_ids)]
        if extended:
            counters.merged += 1
            row = max(extended, key=lambda row: len(row.token_ids))
        else:
            counters.rows += 1
            counters.broken_prefixes += _breaks_prefix(call.prompt_token_ids, same_attempt)
            row = _open_row(call)
            rows.append(row)
        _append_call(row, call)
    return Trajectories(rows, counters)


def _extends(prompt: list[int], tokens: list[int]) -> bool:
    return len(prompt) >= len(tokens) and prompt[: len(tokens)] == tokens


def _breaks_prefix(prompt: list[int], rows: list[TrainingRow]) -> bool:
    """Whether the prompt leaves the rows it follows longest at a token that a model sampled there."""
    common = [_common_length(prompt, row.token_ids) for row in rows]
    longest = max(common, default=0)
    return longest < len(prompt) and any(
        length == longest and length < len(row.mask) and row.mask[length]
        for row, length in zip(rows, common, strict=True)
    )


def _common_length(left: list[int], right: list[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def _open_row(call: LLMCall) -> TrainingRow:
    return TrainingRow(
        rollout_id=call.rollout_id,
        attempt_id=call.attempt_id,
        token_ids=[],
        mask=[],
        logprobs=[],
        temperatures=[],
        weights_versions=[],
    )


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
