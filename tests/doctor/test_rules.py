"""What no run of an agent here can show, on reports made up for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentlightning.adapter.prefix_break import BreakKind
from agentlightning.doctor.report import BreakReport, CallReport, Report, RewardReport
from agentlightning.doctor.rules import Circumstances, find

CALL = CallReport(
    number=1,
    agent=None,
    model="m",
    captured_by=["gateway"],
    streamed=False,
    prompt_tokens=3,
    response_tokens=2,
    has_tokens=True,
    has_logprobs=True,
    failure=None,
    trained=True,
    rows=[1],
)
BREAK = BreakReport(call=1, row=1, kind="unknown", token=3, byte=None, before="", expected=[], found=[])
GOOD = Report(
    agent="an agent",
    ended="succeeded",
    calls=[CALL],
    rewards=[RewardReport(value=1.0, dimensions={"primary": 1.0}, call=1, rule="sequence", reason=None)],
    rows=[],
    breaks=[],
    dropped_spans={},
)
USUAL = Circumstances(
    failure=None,
    deadline=60.0,
    requests=1,
    unknown_paths=[],
    uninstrumented=[],
    contacted=[],
    agent_match=None,
)

BROKEN = {
    BreakKind.TEMPLATE: "template-changed-history",
    BreakKind.RETOKENISATION: "retokenised-history",
    BreakKind.TOOL_SERIALISATION: "tool-calls-rewritten",
    BreakKind.HISTORY_EDIT: "history-edited",
    BreakKind.UNKNOWN: "history-changed",
}


def codes(report: Report, circumstances: Circumstances = USUAL) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in find(report, circumstances)]


def test_a_good_report_has_no_findings() -> None:
    assert codes(GOOD) == []
    assert (GOOD.code, GOOD.ok) == ("all-good", True)


def test_answers_without_log_probabilities() -> None:
    assert codes(replace(GOOD, calls=[replace(CALL, has_logprobs=False)])) == [("no-logprobs", "warning")]


def test_an_sdk_without_an_instrumentor() -> None:
    assert codes(GOOD, replace(USUAL, uninstrumented=["groq"])) == [("sdk-not-instrumented", "note")]
    seen = replace(GOOD, calls=[replace(CALL, captured_by=["gateway", "openai"])])
    assert codes(seen, replace(USUAL, uninstrumented=["groq"])) == []


@pytest.mark.parametrize("kind", BreakKind)
def test_each_kind_of_broken_prefix_has_a_code(kind: BreakKind) -> None:
    assert codes(replace(GOOD, breaks=[replace(BREAK, kind=kind.value)])) == [(BROKEN[kind], "warning")]


def test_one_failed_call_among_others_is_a_warning() -> None:
    failed = replace(CALL, number=2, failure="HTTP 500", has_tokens=False, has_logprobs=False)
    assert codes(replace(GOOD, calls=[CALL, failed]), replace(USUAL, requests=2)) == [("failed-calls", "warning")]
    assert codes(replace(GOOD, calls=[failed])) == [("failed-calls", "error")]


def test_a_call_without_an_answer_is_none_around_the_gateway_whomever_the_agent_talks_to() -> None:
    left = replace(CALL, number=2, captured_by=["openai"], failure="it was left", has_tokens=False)
    busy = replace(USUAL, contacted=["api.example.com:443"])
    assert codes(replace(GOOD, calls=[CALL, left]), busy) == [("failed-calls", "warning")]
    answered = replace(left, failure=None)
    assert codes(replace(GOOD, calls=[CALL, answered]), busy) == [("gateway-bypassed", "error")]


def test_a_call_that_a_stopped_agent_left_is_not_missed() -> None:
    left = replace(USUAL, requests=2)
    assert codes(GOOD, left) == [("unrecorded-calls", "error")]
    assert codes(replace(GOOD, ended="stopped"), left) == [("agent-hung", "error")]


def test_errors_come_first_and_name_the_verdict() -> None:
    report = replace(GOOD, rewards=[], breaks=[BREAK], dropped_spans={"work": 1})
    full = replace(report, findings=find(report, USUAL))
    assert [finding.severity for finding in full.findings] == ["error", "warning", "warning"]
    assert (full.code, full.ok) == ("no-reward", False)
    assert full.to_json()["code"] == "no-reward"
