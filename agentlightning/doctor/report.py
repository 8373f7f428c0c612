"""What the doctor found, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to know.

    Attributes:
        code: What it is called; these names stay.
        severity: `error` spoils training, `warning` costs something, `note` is to be known.
        text: What was seen.
        advice: What to do.
    """

    code: str
    severity: Severity
    text: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """One request to a model.

    Attributes:
        number: Its place among the calls, from 1.
        agent: Who made it, as the trace names agents; None when it names none.
        model: The model's name as requested.
        captured_by: Who saw it: `gateway`, and the instrumented SDKs and frameworks by name.
        streamed: Whether the answer came in pieces.
        prompt_tokens: How many tokens of the prompt are known.
        response_tokens: How many sampled tokens are known, of all answers.
        has_tokens: Whether both are known for every answer.
        has_logprobs: Whether every sampled token has a log-probability.
        failure: Why there is no answer; None when there is one.
        trained: Whether it is one of the agents that are trained.
        rows: The training rows that its answers are in, from 1.
    """

    number: int
    agent: str | None
    model: str | None
    captured_by: Sequence[str]
    streamed: bool
    prompt_tokens: int
    response_tokens: int
    has_tokens: bool
    has_logprobs: bool
    failure: str | None
    trained: bool
    rows: Sequence[int]

    @property
    def through_gateway(self) -> bool:
        """Whether the gateway saw it."""
        return "gateway" in self.captured_by


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardReport:
    """One reward.

    Attributes:
        value: Its primary dimension.
        dimensions: All dimensions by name.
        call: The number of the call that it is given to; None for no call.
        rule: The rule by which it was given; None for no call.
        reason: Why it is given to no call; None for one.
    """

    value: float
    dimensions: dict[str, float]
    call: int | None
    rule: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReport:
    """One training row.

    Attributes:
        number: Its place, from 1.
        tokens: Its length.
        sampled: How many of its tokens are trained on.
    """

    number: int
    tokens: int
    sampled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakReport:
    """A call that went on from a row, but with other tokens, and so opened a row of its own.

    Attributes:
        call: The call's number.
        row: The row it left.
        kind: What changed: `retokenisation`, `template`, `tool_serialisation`, `history_edit` or `unknown`.
        token: The first token that differs, counted from 0.
        byte: Where its text begins in the prompt, counted from 0; None when the tokens' texts are not known.
        before: The text right before it.
        expected: What stood there: the texts of the next tokens; where these are not known, the text from where the
            messages part, or else the tokens' ids.
        found: What the prompt has there, likewise.
    """

    call: int
    row: int
    kind: str
    token: int
    byte: int | None
    before: str
    expected: Sequence[str]
    found: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole diagnosis.

    Attributes:
        agent: What was run.
        ended: How: `succeeded`, `failed` or `stopped`.
        calls: Its model calls, in order.
        rewards: Its rewards, in order.
        rows: What training would get.
        breaks: Where histories were not given back as they were.
        dropped_spans: How many spans of each name belonged to no trace.
        findings: What to know, the worst first.
    """

    agent: str
    ended: Literal["succeeded", "failed", "stopped"]
    calls: Sequence[CallReport]
    rewards: Sequence[RewardReport]
    rows: Sequence[RowReport]
    breaks: Sequence[BreakReport]
    dropped_spans: dict[str, int]
    findings: Sequence[Finding] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing would spoil training."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def code(self) -> str:
        """The code of the worst finding, or `all-good`."""
        return self.findings[0].code if self.findings else "all-good"

    @property
    def verdict(self) -> str:
        """The diagnosis in a few words."""
        if not self.ok:
            return "not ready for training"
        losses = any(finding.severity == "warning" for finding in self.findings)
        return "ready for training, with losses" if losses else "ready for training"

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {"code": self.code, "ok": self.ok, "verdict": self.verdict, **asdict(self)}
