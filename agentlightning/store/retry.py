"""Store calls that are tried again when the failure may pass."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from agentlightning.errors import (
    Forbidden,
    IllegalTransition,
    InvalidValue,
    LeaseLost,
    NotFound,
    StoreClosed,
    StoreError,
    TooLarge,
    Unauthorized,
)

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

ATTEMPTS: Final = 4
FIRST_PAUSE: Final = 0.1
"""Seconds before the second attempt; doubled before each further one."""
CALL_TIMEOUT: Final = 30.0
"""Seconds one call may take before it counts as failed."""

_REFUSALS = (
    NotFound,
    IllegalTransition,
    LeaseLost,
    InvalidValue,
    Unauthorized,
    Forbidden,
    TooLarge,
    StoreClosed,
)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later: a fault of the store or the network, not a refusal."""
    return isinstance(error, (StoreError, OSError, TimeoutError)) and not isinstance(error, _REFUSALS)


async def retrying(call: Callable[[], Awaitable[ResultT]], *, what: str, extra_seconds: float = 0.0) -> ResultT:
    """Await `call()`, up to `ATTEMPTS` times while its failure may pass; the last failure is raised.

    Args:
        call: Makes a fresh awaitable for every attempt.
        what: What is being done, for the log.
        extra_seconds: How long the call waits by its own design, on top of `CALL_TIMEOUT`.
    """
    pause = FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with asyncio.timeout(CALL_TIMEOUT + extra_seconds):
                return await call()
        except (StoreError, OSError, TimeoutError) as error:
            if attempt == ATTEMPTS or not may_pass(error):
                raise
            logger.warning("Could not %s (%s: %s); again in %.1f s", what, type(error).__name__, error, pause)
        await asyncio.sleep(pause)
        pause *= 2
    raise AssertionError("unreachable: the last attempt returns or raises")
