"""The environment variables that place a run, and how their values are read."""

from __future__ import annotations

import os
from enum import Enum
from typing import Final

from agentlightning.errors import ConfigurationError

_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


class LightningEnvVar(Enum):
    """The environment variables; an argument that is passed wins over its variable."""

    AGL_EMITTER_DEBUG = "AGL_EMITTER_DEBUG"
    AGL_MANAGED_STORE = "AGL_MANAGED_STORE"
    AGL_CURRENT_ROLE = "AGL_CURRENT_ROLE"
    AGL_SERVER_HOST = "AGL_SERVER_HOST"
    AGL_SERVER_PORT = "AGL_SERVER_PORT"


def resolve_bool_env_var(
    env_var: LightningEnvVar, override: bool | None = None, fallback: bool | None = None
) -> bool | None:
    """Return `override`, or else what the variable says, or else `fallback`.

    Raises:
        ConfigurationError: The variable says neither yes nor no.
    """
    if override is not None:
        return override
    text = os.environ.get(env_var.value)
    if text is None:
        return fallback
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise ConfigurationError(f"{env_var.value} is {text!r}: use one of {', '.join(_TRUE + _FALSE)}")
    return word in _TRUE


def resolve_int_env_var(
    env_var: LightningEnvVar, override: int | None = None, fallback: int | None = None
) -> int | None:
    """Return `override`, or else the number that the variable holds, or else `fallback`.

    Raises:
        ConfigurationError: The variable holds no whole number.
    """
    if override is not None:
        return override
    text = os.environ.get(env_var.value)
    if text is None:
        return fallback
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(f"{env_var.value} is {text!r}: make it a whole number") from None


def resolve_str_env_var(
    env_var: LightningEnvVar, override: str | None = None, fallback: str | None = None
) -> str | None:
    """Return `override`, or else the variable's text, or else `fallback`."""
    return override if override is not None else os.environ.get(env_var.value, fallback)
