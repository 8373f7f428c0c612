"""Settings that are checked where they are made, and not in the midst of a run."""

from __future__ import annotations

import math
from typing import Any

from agentlightning.errors import ConfigurationError


def check_whole(name: str, value: Any, least: int | None = None) -> None:
    """Raise `ConfigurationError` unless a setting is a whole number, and at least so high."""
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ConfigurationError(f"{name} must be a whole number{bound}, not {value!r}")


def check_number(name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf) -> None:
    """Raise `ConfigurationError` unless a setting is a number, and as high as it must be."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value > above and value >= least):
        bound = f" above {above:g}" if above > -math.inf else f" of at least {least:g}" if least > -math.inf else ""
        raise ConfigurationError(f"{name} must be a number{bound}, not {value!r}")
