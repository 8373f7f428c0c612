"""Why a call could not extend the row it went on from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agentlightning.types import LLMCall


class BreakKind(StrEnum):
    """What changed between a row's tokens and the prompt that went on from it."""

    TEMPLATE = "template"
    RETOKENISATION = "retokenisation"
    TOOL_SERIALISATION = "tool_serialisation"
    HISTORY_EDIT = "history_edit"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixBreak:
    """One broken prefix.

    Attributes:
        kind: What changed.
        call: The call whose prompt left the row.
        row: Index of that row among the rows.
        previous: The call that the row's tokens are from at that place.
        position: The first token that differs, counted in the row and in the prompt alike.
        message: Index of the first message of the call's history that differs; None when all are the same.
        expected: The text from where the histories part, as it was; empty when they do not part.
        found: The text from where the histories part, as the agent sent it; empty when they do not part.
    """

    kind: BreakKind
    call: LLMCall
    row: int
    previous: LLMCall
    position: int
    message: int | None = None
    expected: str = ""
    found: str = ""
