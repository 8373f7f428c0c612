"""What v0.3 calls by name and by position."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def takes(function: Callable[..., Any], expected: str) -> bool:
    """Whether a function takes v0.3's parameters, written as in a call: in this order and with these defaults.

    More parameters are fine if they need no value.
    """
    parameters = {name: item for name, item in inspect.signature(function).parameters.items() if name != "self"}
    names = [name for name, item in parameters.items() if item.kind is not inspect.Parameter.VAR_KEYWORD]
    wanted = dict(_parts(expected))
    further = [parameters[name] for name in names if name not in wanted]
    return (
        names[: len(wanted)] == list(wanted)
        and all(_default(parameters[name]) == default for name, default in wanted.items())
        and all(item.default is not item.empty or item.kind is item.VAR_POSITIONAL for item in further)
    )


def _parts(expected: str) -> list[tuple[str, str | None]]:
    pairs = [part.strip().partition("=") for part in expected.split(",") if part.strip()]
    return [(name, default if equals else None) for name, equals, default in pairs]


def _default(parameter: inspect.Parameter) -> str | None:
    return None if parameter.default is parameter.empty else str(parameter.default)
