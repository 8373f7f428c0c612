"""What the doctor knows: each rule looks at a report and says what is wrong, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentlightning._internal.error_place import place_of
from agentlightning.adapter.rewards import Unmatched
from agentlightning.doctor.report import CallReport, Finding, Report, Severity
from agentlightning.errors import MissingResource


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a report does not say.

    Attributes:
        failure: What the agent raised.
        deadline: How many seconds the agent had.
        requests: How many calls the scripted model got; None when a real one was asked.
        unknown_paths: Where else the agent asked the scripted model.
        uninstrumented: SDKs that are loaded and whose calls nobody records.
        contacted: Whom the agent's process connected to besides the gateway.
        agent_match: Which agents are trained; None for all.
    """

    failure: BaseException | None
    deadline: float
    requests: int | None
    unknown_paths: Sequence[str]
    uninstrumented: Sequence[str]
    contacted: Sequence[str]
    agent_match: str | None


Rule: TypeAlias = Callable[[Report, Circumstances], Iterator[Finding]]

_WRITING: Final = ("completions", "responses", "messages", "chat", "generate", "converse", "invoke")
_ENDPOINT: Final = (
    "Give the client the resource's address: base_url=llm.endpoint (or llm.get_base_url(…) for a ProxyLLM)."
)


def find(report: Report, circumstances: Circumstances) -> list[Finding]:
    """Return what all rules say, errors first."""
    order: list[Severity] = ["error", "warning", "note"]
    findings = [finding for rule in _RULES for finding in rule(report, circumstances)]
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _ending(report: Report, circumstances: Circumstances) -> Iterator[Finding]:
    failure = circumstances.failure
    if report.ended == "stopped":
        yield Finding(
            code="agent-hung",
            severity="error",
            text=f"The agent did not end within {circumstances.deadline:g} s and was stopped.",
            advice="Look for a wait without an end, or a loop that waits for words that the scripted model never says "
            "(--replies makes it say them); give a slow agent more time with --deadline.",
        )
    elif isinstance(failure, MissingResource):
        yield Finding(
            code="missing-resource",
            severity="error",
            text=_sentence(str(failure)),
            advice="Name the parameter like the resource, or give resources of these names with --resources.",
        )
    elif isinstance(failure, SystemExit):
        yield Finding(
            code="agent-exited",
            severity="error",
            text=f"The agent ended its process{place_of(failure)}: {failure}",
            advice="Many rollouts share a process: let the agent return, or raise, instead of sys.exit or os._exit.",
        )
    elif failure is not None:
        yield Finding(
            code="agent-raised",
            severity="error",
            text=f"The agent raised {type(failure).__name__}{place_of(failure)}: {failure}",
            advice="Run it under a debugger with LitAgentRunner.step; if it expects a task of another form, give one "
            "with --task.",
        )


def _missing_calls(report: Report, circumstances: Circumstances) -> Iterator[Finding]:
    paths = [path for path in circumstances.unknown_paths if _generates(path)]
    if paths:
        yield Finding(
            code="unrecorded-protocol",
            severity="error",
            text=f"The agent asked for {_listed(paths)}, which is not recorded.",
            advice="Let the agent use Chat Completions, Completions, Responses or Anthropic's Messages.",
        )
    elif not report.calls and not circumstances.requests and report.ended == "succeeded":
        unseen = ", ".join(circumstances.uninstrumented)
        yield Finding(
            code="no-calls",
            severity="error",
            text="No model call was seen, neither by the gateway nor by an instrumented SDK."
            + (f" Loaded but not instrumented: {unseen}." if unseen else "")
            + _addresses(circumstances),
            advice=f"If the agent did call a model, it called one elsewhere. {_ENDPOINT}",
        )


def _other_requests(_: Report, circumstances: Circumstances) -> Iterator[Finding]:
    paths = [path for path in circumstances.unknown_paths if not _generates(path)]
    if paths:
        yield Finding(
            code="unrecorded-requests",
            severity="note",
            text=f"The agent asked for {_listed(paths)}, which the scripted model does not have and nobody records.",
            advice="Training needs none of it. Let the agent ask for other things than words where they are served.",
        )


def _ways_around_the_gateway(report: Report, circumstances: Circumstances) -> Iterator[Finding]:
    # A call without an answer tells nothing: its address was wrong, or the agent left in the midst of a stream.
    around = [call for call in report.calls if not call.through_gateway and not call.failure]
    unrecorded = (circumstances.requests or 0) - sum(call.through_gateway for call in report.calls)
    if unrecorded > 0 and report.ended != "stopped":  # which leaves calls without their end
        yield Finding(
            code="unrecorded-calls",
            severity="error",
            text=f"{_count(unrecorded, 'call')} reached the model, but nobody knows by which attempt.",
            advice="The address names the attempt, so use it whole: base_url=llm.endpoint, or for a ProxyLLM "
            "llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id).",
        )
    elif around:
        seen_by = ", ".join(sorted({name for call in around for name in call.captured_by}))
        yield Finding(
            code="gateway-bypassed",
            severity="error",
            text=f"{_numbers(around)} went to a model elsewhere: seen by {seen_by}, but not by the gateway."
            + _addresses(circumstances),
            advice=f"Without the gateway there are no exact tokens to train on. {_ENDPOINT}",
        )


def _sdks(report: Report, circumstances: Circumstances) -> Iterator[Finding]:
    unseen = [call for call in report.calls if call.captured_by == ["gateway"]]
    if unseen and circumstances.uninstrumented:
        names = ", ".join(circumstances.uninstrumented)
        yield Finding(
            code="sdk-not-instrumented",
            severity="note",
            text=f"{_numbers(unseen)} were seen by the gateway alone; loaded but not instrumented: {names}.",
            advice="That is enough to train on. For the names of agents, install the extra `instrument`.",
        )


def _failed_calls(report: Report, _: Circumstances) -> Iterator[Finding]:
    failed = [call for call in report.calls if call.failure is not None]
    if failed:
        yield Finding(
            code="failed-calls",
            severity="error" if len(failed) == len(report.calls) else "warning",
            text=f"{_numbers(failed)} got no answer: {failed[0].failure}",
            advice="Failed calls are not trained on. Ask for the model by llm.model, and see what the message says.",
        )


def _tokens(report: Report, _: Circumstances) -> Iterator[Finding]:
    answered = [call for call in report.calls if call.failure is None and call.through_gateway]
    without = [call for call in answered if not call.has_tokens]
    if without and all(call.streamed for call in without):
        yield Finding(
            code="streaming-without-ids",
            severity="error",
            text=f"{_numbers(without)} streamed, and the stream did not name its tokens.",
            advice="Update the model server (vLLM names them in streams since return_token_ids), or do not stream "
            "while training.",
        )
    elif without:
        yield Finding(
            code="no-token-ids",
            severity="error",
            text=f"{_numbers(without)} came back without the tokens that were sampled.",
            advice="Serve the model with something that knows return_token_ids (vLLM 0.10.2 or later, or the embedded "
            "server): text is never tokenised again for training.",
        )
    blind = [call for call in answered if call.has_tokens and not call.has_logprobs]
    if blind:
        yield Finding(
            code="no-logprobs",
            severity="warning",
            text=f"{_numbers(blind)} came back without log-probabilities.",
            advice="Let the server return them: without, training cannot correct for a policy that has moved on.",
        )


def _rewards(report: Report, _: Circumstances) -> Iterator[Finding]:
    trained = any(call.trained for call in report.calls)
    unmatched = [reward for reward in report.rewards if reward.call is None and trained]
    early = [reward for reward in unmatched if reward.reason == Unmatched.NO_CALL_BEFORE]
    if not report.rewards and report.ended == "succeeded":
        yield Finding(
            code="no-reward",
            severity="error",
            text="The agent gave no reward.",
            advice="Return a number from the agent, or call emit_reward(value) when it is known.",
        )
    elif early:
        yield Finding(
            code="reward-before-call",
            severity="error",
            text=f"{_values(early)} came before the first model call and belongs to none.",
            advice="Emit a reward after the call that earned it, or link it to the call.",
        )
    elif unmatched:
        yield Finding(
            code="unmatched-reward",
            severity="warning",
            text=f"{_values(unmatched)} belongs to no model call: {unmatched[0].reason}.",
            advice="Emit a reward after the call that earned it, or link it to the call.",
        )


def _agents(report: Report, circumstances: Circumstances) -> Iterator[Finding]:
    left_out = [call for call in report.calls if not call.trained]
    if not left_out or circumstances.agent_match is None:
        return
    names = ", ".join(sorted({call.agent or "(no name)" for call in left_out}))
    trained = ", ".join(sorted({call.agent or "(no name)" for call in report.calls if call.trained}))
    if not trained:
        yield Finding(
            code="no-agent-matches",
            severity="error",
            text=f"No agent matches {circumstances.agent_match!r}; there are: {names}.",
            advice="Choose an expression that is found in one of these names.",
        )
        return
    yield Finding(
        code="agents-left-out",
        severity="note",
        text=f"Trained: {trained}. Left out: {names} ({_numbers(left_out)}).",
        advice=f"This is what {circumstances.agent_match!r} asks for.",
    )


def _breaks(report: Report, _: Circumstances) -> Iterator[Finding]:
    for kind, (code, text, advice) in _KINDS.items():
        calls = [str(each.call) for each in report.breaks if each.kind == kind]
        if calls:
            where = f"{'Call' if len(calls) == 1 else 'Calls'} {', '.join(calls)}"
            yield Finding(code=code, severity="warning", text=f"{where}: {text}", advice=advice)


def _dropped(report: Report, _: Circumstances) -> Iterator[Finding]:
    if report.dropped_spans:
        yield Finding(
            code="spans-dropped",
            severity="warning",
            text="Dropped, for they came from outside of the agent's context: "
            + ", ".join(f"{number} x {name}" for name, number in report.dropped_spans.items())
            + ".",
            advice="With several rollouts in one process nobody can say whose they are. Start the thread or loop that "
            "makes them inside the agent, or carry the OpenTelemetry context into it.",
        )


_RULES: Final[tuple[Rule, ...]] = (
    _missing_calls,
    _ways_around_the_gateway,
    _failed_calls,
    _ending,
    _tokens,
    _rewards,
    _agents,
    _breaks,
    _dropped,
    _other_requests,
    _sdks,
)
_ROWS: Final = "Each such call starts a training row of its own, which costs time but is correct."
_KINDS: Final[dict[str, tuple[str, str, str]]] = {
    "retokenisation": (
        "retokenised-history",
        "the history came back with the same text in other tokens than were sampled.",
        f"Tokenizers do that to text that they did not write. {_ROWS}",
    ),
    "template": (
        "template-changed-history",
        "the chat template wrote earlier turns in another way, though the messages are the same.",
        f"Many templates drop earlier reasoning: use one that keeps it. {_ROWS}",
    ),
    "tool_serialisation": (
        "tool-calls-rewritten",
        "the arguments of an earlier tool call came back as other JSON text.",
        f"Give the model's own text back (message.tool_calls[i].function.arguments) instead of json.dumps. {_ROWS}",
    ),
    "history_edit": (
        "history-edited",
        "the agent changed earlier messages: cut, summarised or rewritten.",
        f"Fine if it is meant; otherwise append to the messages only. {_ROWS}",
    ),
    "unknown": (
        "history-changed",
        "the history came back with other tokens than were sampled, for reasons that the spans do not tell.",
        _ROWS,
    ),
}


def _generates(path: str) -> bool:
    """Whether this is where models of any protocol are asked to write."""
    return path.rsplit("/", 1)[-1] in _WRITING or "generatecontent" in path.lower()


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(sorted(set(paths)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _numbers(calls: Sequence[CallReport]) -> str:
    return f"{'Call' if len(calls) == 1 else 'Calls'} {', '.join(str(call.number) for call in calls)}"


def _values(rewards: Sequence[object]) -> str:
    return f"{len(rewards)} {'reward' if len(rewards) == 1 else 'rewards'}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _addresses(circumstances: Circumstances) -> str:
    return f" The agent talked to {', '.join(circumstances.contacted)}." if circumstances.contacted else ""
