"""What the commands that serve share: who may call them, what they log, and how they end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

import typer

from agentlightning.cli.interrupt import INTERRUPTED, ignore_interrupts
from agentlightning.errors import ConfigurationError


def secret_for(host: str, token: str | None) -> tuple[str | None, str | None]:
    """Return what callers must present, and the same again if it was made just now, to be shown.

    Raises:
        ConfigurationError: The token given cannot be one.
    """
    from agentlightning.serving import is_loopback
    from agentlightning.store.tokens import check_secret, generate_token, token_given

    given = token_given(token)
    secret = given or (None if is_loopback(host) else generate_token())
    if secret is not None:
        check_secret(secret)
    return secret, None if given else secret


def checked_level(level: str) -> str:
    """Return a log level as `logging` names it.

    Raises:
        ConfigurationError: There is no such level.
    """
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ConfigurationError(f"--log-level is {level}: use DEBUG, INFO, WARNING or ERROR")
    return level.upper()


def run_server(serving: Coroutine[Any, Any, None]) -> None:
    """Run what serves; Ctrl+C ends it after it has cleaned up."""
    try:
        asyncio.run(serving)
    except KeyboardInterrupt:
        ignore_interrupts()
        raise typer.Exit(INTERRUPTED) from None


def termination() -> asyncio.Event:
    """Return what SIGTERM sets from now on."""
    asked_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_stop.set)
    return asked_to_stop
