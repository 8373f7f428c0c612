"""A report in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentlightning.doctor.report import BreakReport, CallReport, Report, RewardReport

_HEADS = ("call", "agent", "captured by", "tokens", "log-probs", "streamed", "reward", "row")


def describe(report: Report) -> str:
    """Return the report as lines of text, without a newline at the end."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield f"agent   {report.agent}: {report.ended}"
    yield f"calls   {len(report.calls)}"
    if report.calls:
        yield ""
        yield from _table([_HEADS, *(_cells(call, report) for call in report.calls)])
        yield ""
    for reward in report.rewards:
        yield f"reward  {_reward(reward)}"
    sampled = sum(row.sampled for row in report.rows)
    tokens = sum(row.tokens for row in report.rows)
    yield f"rows    {len(report.rows)}, of {tokens} tokens; {sampled} of them were sampled and are trained on"
    for each in report.breaks:
        yield from _break(each)
    for name, number in report.dropped_spans.items():
        yield f"dropped {number} x {name}"
    for finding in report.findings:
        yield ""
        yield f"{finding.severity}: {finding.code}"
        yield f"  {finding.text}"
        yield f"  {finding.advice}"
    yield ""
    codes = ", ".join(finding.code for finding in report.findings)
    yield f"verdict: {report.verdict} ({codes or report.code})"


def _cells(call: CallReport, report: Report) -> Sequence[str]:
    rewards = [f"{reward.value:g}" for reward in report.rewards if reward.call == call.number]
    seen = ", ".join(call.captured_by)
    if call.failure is not None:
        return (str(call.number), call.agent or "-", seen, "failed", "-", "-", "-", "-")
    tokens = f"{call.prompt_tokens} + {call.response_tokens}" if call.has_tokens else "none"
    rows = ", ".join(map(str, call.rows)) if call.trained else "not trained"
    logprobs, streamed = ("yes" if value else "no" for value in (call.has_logprobs, call.streamed))
    return (
        str(call.number),
        call.agent or "-",
        seen,
        tokens,
        logprobs,
        streamed,
        ", ".join(rewards) or "-",
        rows or "none",
    )


def _table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _reward(reward: RewardReport) -> str:
    names = ", ".join(f"{name} {value:g}" for name, value in reward.dimensions.items())
    value = f"{reward.value:g}" + (f" ({names})" if len(reward.dimensions) > 1 else "")
    return (
        f"{value} to no call: {reward.reason}"
        if reward.call is None
        else f"{value} to call {reward.call}, by {reward.rule}"
    )


def _break(each: BreakReport) -> Iterator[str]:
    place = f"token {each.token}" + ("" if each.byte is None else f", byte {each.byte}")
    yield f"break   call {each.call} left row {each.row} at {place}: {each.kind.replace('_', ' ')}"
    if each.before:
        yield f"        after    {each.before!r}"
    yield f"        stood    {' '.join(map(repr, each.expected)) or 'the end'}"
    yield f"        now      {' '.join(map(repr, each.found)) or 'the end'}"
