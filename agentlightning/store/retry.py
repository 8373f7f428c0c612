"""Store calls that are tried again when the failure may pass."""

from __future__ import annotations

import asyncio
import logging
import random
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

FIRST_PAUSE: Final = 0.1
"""Seconds before the second try; doubled before each further one, and each a little shorter or longer by chance."""
LONGEST_PAUSE: Final = 2.0
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


async def persistently(
    call: Callable[[], Awaitable[ResultT]], *, what: str, patience: float, extra_seconds: float = 0.0
) -> ResultT:
    """Await `call()` again and again while its failure may pass, with growing pauses; the last failure is raised.

    Args:
        call: Makes a fresh awaitable for every try.
        what: What is being done, for the log.
        patience: Seconds from the first failure to the last try.
        extra_seconds: How long the call waits by its own design, on top of `CALL_TIMEOUT`.
    """
    loop = asyncio.get_running_loop()
    pause, last_try = FIRST_PAUSE, None
    while True:
        try:
            async with asyncio.timeout(CALL_TIMEOUT + extra_seconds):
                return await call()
        except (StoreError, OSError, TimeoutError) as error:
            last_try = loop.time() + patience if last_try is None else last_try
            if not may_pass(error) or loop.time() + pause > last_try:
                raise
            logger.warning("Could not %s (%s: %s); again in %.1f s", what, type(error).__name__, error, pause)
        await asyncio.sleep(pause * random.uniform(0.75, 1.25))
        pause = min(2 * pause, LONGEST_PAUSE)
