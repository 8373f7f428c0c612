"""From one run of an agent to a report: everything read by the very adapters that training uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from agentlightning.adapter.credit import assign_rewards
from agentlightning.adapter.llm_call import read_calls
from agentlightning.adapter.prefix_break import PrefixBreak
from agentlightning.adapter.reading import SeenCall, Sighting
from agentlightning.adapter.rewards import Credit, Reward, RewardMatchPolicy
from agentlightning.adapter.selection import TracedCall, check_expression, of_agents
from agentlightning.adapter.trajectory import merge_calls
from agentlightning.adapter.tree import TraceTree
from agentlightning.doctor.harness import Observation, observe
from agentlightning.doctor.report import BreakReport, CallReport, Report, RewardReport, RowReport
from agentlightning.doctor.rules import Circumstances, find
from agentlightning.doctor.scripted_model import ScriptedModel
from agentlightning.doctor.tokens import decode, text_of
from agentlightning.errors import ConfigurationError
from agentlightning.litagent import LitAgent
from agentlightning.types import LLM, LLMCall, NamedResources, TrainingRow

DEFAULT_TASK: Final = {"question": "What is 1 + 1?"}
_TEXT_BEFORE: Final = 40
_TOKENS_AFTER: Final = 6


def diagnose(
    agent: LitAgent[Any],
    task: Any = None,
    *,
    resources: NamedResources | None = None,
    model: ScriptedModel | None = None,
    live: bool = False,
    agent_match: str | None = None,
    reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
    deadline: float = 60.0,
) -> Report:
    """Run an agent once on one task and say what training would see of it.

    The agent runs behind the real gateway, traced as in training. By default a scripted model answers, so this costs
    nothing and needs neither key nor GPU.

    Args:
        agent: The agent.
        task: Its task; None for one that asks a small question.
        resources: What it gets by name; None for one `LLM` called `llm`.
        model: What stands for every model of the resources; one that calls each offered tool once by default.
        live: Ask the models of the resources themselves instead, which may cost money.
        agent_match: Which agents are trained: those with a name that this expression finds; None for all.
        reward_match: How rewards find their calls.
        deadline: Seconds after which the agent is stopped.

    Raises:
        ConfigurationError: `live` without an `LLM` among the resources, or `agent_match` is no regular expression.
    """
    check_expression("agent_match", agent_match)
    if live and not any(isinstance(resource, LLM) for resource in (resources or {}).values()):
        raise ConfigurationError("live asks the models of the resources, and there is none: give resources with an LLM")
    model = model or ScriptedModel()
    given: NamedResources = {"llm": LLM(endpoint="", model=model.name)} if resources is None else resources
    seen = observe(agent, DEFAULT_TASK if task is None else task, given, model=model, live=live, deadline=deadline)
    report = _Reader(seen, agent_match, reward_match, exact_text=not live).report(
        getattr(agent, "__name__", type(agent).__name__)
    )
    circumstances = Circumstances(
        failure=seen.failure,
        deadline=deadline,
        requests=None if live else seen.requests,
        unknown_paths=seen.unknown_paths,
        uninstrumented=seen.uninstrumented,
        contacted=seen.contacted,
        agent_match=agent_match,
    )
    return replace(report, findings=find(report, circumstances))


class _Reader:
    """Reads the spans of one run.

    Args:
        seen: The run.
        agent_match: Which agents are trained.
        reward_match: How rewards find their calls.
        exact_text: Whether the tokens are the scripted model's, so that each has a text.
    """

    def __init__(
        self, seen: Observation, agent_match: str | None, reward_match: RewardMatchPolicy, *, exact_text: bool
    ) -> None:
        self._observation = seen
        self._exact_text = exact_text
        self._calls = read_calls(seen.spans).seen
        self._numbers = {_span_id(call): number for number, call in enumerate(self._calls, 1)}
        self._agents: dict[str, str | None] = {}
        self._trained: Sequence[TracedCall] = ()
        self._credit = Credit()
        if seen.spans:
            tree = TraceTree.from_spans(seen.spans)
            tree.repair_hierarchy()
            everybody = tree.select_calls(exclude_llm_call_in_reward=False)
            self._agents = {call.first.span_id: call.agent for call in everybody}
            self._trained, others = of_agents(tree.select_calls(), agent_match)
            self._credit = assign_rewards(tree, self._trained, reward_match, others)
        self._merged = merge_calls(answer for call in self._trained for answer in call.answers)
        self._rows = _rows_of(self._trained, self._merged.rows)

    def report(self, name: str) -> Report:
        """Return everything but the findings."""
        seen = self._observation
        return Report(
            agent=name,
            ended="stopped" if seen.hung else "failed" if seen.failure is not None else "succeeded",
            calls=[self._call(call) for call in self._calls],
            rewards=self._rewards(),
            rows=[
                RowReport(number=number, tokens=len(row.token_ids), sampled=sum(row.mask))
                for number, row in enumerate(self._merged.rows, 1)
            ],
            breaks=[self._break(each) for each in self._merged.breaks],
            dropped_spans=dict(seen.dropped_spans),
        )

    def _call(self, call: SeenCall) -> CallReport:
        span_id, used = _span_id(call), call.sightings[0]
        return CallReport(
            number=self._numbers[span_id],
            agent=self._agents.get(span_id),
            model=call.answers[0].model if call.answers else None,
            captured_by=list(dict.fromkeys(map(_name_of, call.sightings))),
            streamed=any(sighting.streamed for sighting in call.sightings),
            prompt_tokens=len(call.answers[0].prompt_token_ids) if call.answers else 0,
            response_tokens=sum(len(answer.response_token_ids) for answer in call.answers),
            has_tokens=used.has_tokens,
            has_logprobs=used.has_logprobs,
            failure=call.failure,
            trained=any(each.first.span_id == span_id for each in self._trained),
            rows=self._rows.get(span_id, []),
        )

    def _rewards(self) -> list[RewardReport]:
        given = [
            (each.reward, self._numbers[self._trained[index].first.span_id], str(each.rule), None)
            for index, each in self._credit.given.items()
        ]
        unmatched = [(each.reward, None, None, str(each.reason)) for each in self._credit.unmatched]
        return [
            RewardReport(value=reward.value, dimensions=reward.dimensions, call=call, rule=rule, reason=reason)
            for reward, call, rule, reason in sorted([*given, *unmatched], key=lambda entry: _position(entry[0]))
        ]

    def _break(self, each: PrefixBreak) -> BreakReport:
        call, previous = each.call, each.previous
        was = previous.prompt_token_ids + previous.response_token_ids
        stood, stands = (ids[each.position :][:_TOKENS_AFTER] for ids in (was, call.prompt_token_ids))
        before, byte = "", None
        if self._exact_text and call.source == previous.source == "gateway":
            before = decode(call.prompt_token_ids[: each.position])
            byte = len(before.encode(errors="replace"))
            expected, found = list(map(text_of, stood)), list(map(text_of, stands))
        elif each.expected or each.found:
            expected, found = [each.expected], [each.found]
        else:
            expected, found = [f"token {token}" for token in stood], [f"token {token}" for token in stands]
        return BreakReport(
            call=self._numbers[call.span_id],
            row=each.row + 1,
            kind=str(each.kind),
            token=each.position,
            byte=byte,
            before=before[-_TEXT_BEFORE:],
            expected=expected,
            found=found,
        )


def _span_id(call: SeenCall) -> str:
    return call.answers[0].span_id if call.answers else call.sightings[0].span_id


def _name_of(sighting: Sighting) -> str:
    """The gateway, or the library whose instrumentor wrote the span."""
    if sighting.source == "gateway" or sighting.scope is None:
        return sighting.source
    return sighting.scope.rsplit(".", 1)[-1]


def _rows_of(calls: Sequence[TracedCall], rows: Sequence[TrainingRow]) -> dict[str, list[int]]:
    """Return the numbers of the rows that hold a call's answers, by the call's span; equal calls have a row each."""
    numbers: dict[str, list[int]] = {}
    taken: set[tuple[int, int]] = set()
    for call in calls:
        for answer in call.answers:
            places = ((number, len(answer.prompt_token_ids)) for number in range(1, len(rows) + 1))
            free = (place for place in places if place not in taken and _stands_in(answer, rows[place[0] - 1]))
            if place := next(free, None):
                taken.add(place)
                numbers.setdefault(call.first.span_id, []).append(place[0])
    return numbers


def _stands_in(answer: LLMCall, row: TrainingRow) -> bool:
    """Whether the row holds the answer behind its prompt, and trains on it."""
    start, tokens = len(answer.prompt_token_ids), answer.prompt_token_ids + answer.response_token_ids
    return (
        bool(answer.response_token_ids)
        and row.token_ids[: len(tokens)] == tokens
        and all(row.mask[start : len(tokens)])
    )


def _position(reward: Reward) -> tuple[int, float]:
    return reward.span.sequence_id, reward.span.start_time or 0.0
