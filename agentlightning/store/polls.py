"""Waits over HTTP, cut into polls that are short enough for whatever stands between client and server."""

from __future__ import annotations

import math
from typing import Any, Final

from agentlightning.errors import InvalidValue
from agentlightning.store.operations import Operation

LONGEST_POLL: Final = 20.0
"""Seconds after which a waiting request is answered with what there is; the client asks again."""
WAIT: Final = "wait"
"""The parameter of operations that return as soon as there is something, if only late."""
TIMEOUT: Final = "timeout"
"""The parameter of operations that return when all is there, and else at its end with what there is."""
_SURELY_EARLY: Final = 0.9
"""An answer before this part of its poll was not brought about by the poll's end, however two clocks differ."""


def waiting_parameter(operation: Operation) -> str | None:
    """Return the parameter that says how long an operation may wait; None if it does not wait."""
    return next((name for name in (WAIT, TIMEOUT) if name in operation.signature.parameters), None)


def check_wait(seconds: Any, name: str) -> None:
    """Refuse what is neither None nor a number of seconds.

    Raises:
        InvalidValue: It is not.
    """
    if seconds is not None and (not isinstance(seconds, (int, float)) or math.isnan(seconds)):
        raise InvalidValue(f"{name} is {seconds!a}: make it a number of seconds")


def is_final(parameter: str, answer: Any, took: float, asked: float) -> bool:
    """Whether an answer would not have become another one, had its poll been longer.

    Args:
        parameter: `waiting_parameter` of the operation.
        answer: The answer.
        took: Seconds until it came.
        asked: Seconds that the poll was to last.
    """
    if took < asked * _SURELY_EARLY:
        return True
    return parameter == WAIT and bool(getattr(answer, "items", answer))
