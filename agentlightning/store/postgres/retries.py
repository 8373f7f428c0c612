"""Which failures of a transaction are met by running it again, and what the others are called."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from agentlightning.errors import InvalidValue, StoreError, StoreUnreachable, TooBusy
from agentlightning.store.postgres.address import COMMAND_SECONDS
from agentlightning.store.postgres.driver import FAILURES, UNSENT, asyncpg

T = TypeVar("T")

_COLLISIONS: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError)
_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    *UNSENT,
    ConnectionError,
    StoreUnreachable,
)
_UNKEEPABLE: Final = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)
_COLLISIONS_BORNE: Final = 8
_RECONNECT_SECONDS: Final = 10.0
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 1.0


async def again_where_it_helps(attempt: Callable[[], Awaitable[T]], lost: Callable[[], object]) -> T:
    """Await `attempt()`, a transaction that did nothing if it fails, until it succeeds or trying again is of no use.

    Transactions that met try again a few times, those that lost their connection for ten seconds.

    Args:
        attempt: Runs the transaction.
        lost: Called when a connection was lost.

    Raises:
        StoreError: It failed.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _RECONNECT_SECONDS
    collisions = 0
    pause = _FIRST_PAUSE
    while True:
        try:
            return await attempt()
        except (*FAILURES, StoreUnreachable) as error:
            collisions += isinstance(error, _COLLISIONS)
            if _is_lost(error):
                lost()
            passes = isinstance(error, _COLLISIONS) or _is_lost(error)
            if not passes or collisions > _COLLISIONS_BORNE or loop.time() > give_up:
                raise _in_words(error) from error
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _is_lost(error: Exception) -> bool:
    # asyncpg calls a parameter of the wrong type an interface error, too, and that it is a ValueError.
    return isinstance(error, _LOST) and not isinstance(error, ValueError)


def _in_words(error: Exception) -> StoreError:
    if isinstance(error, StoreUnreachable):
        return error
    if isinstance(error, TimeoutError):
        return StoreError(f"PostgreSQL did not answer in {COMMAND_SECONDS} s: see what it is busy with")
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, asyncpg.LockNotAvailableError):
        return TooBusy(f"another transaction holds what this one needs ({what}): nothing was written, try again")
    if isinstance(error, _UNKEEPABLE):
        return InvalidValue(f"PostgreSQL cannot keep this text ({what}): take out what has no place in its encoding")
    if _is_lost(error):
        return StoreUnreachable(
            f"PostgreSQL was lost ({what}) and not found again in {_RECONNECT_SECONDS} s: see that it runs; "
            "nothing of this operation was written"
        )
    return StoreError(f"the database failed: {what}")
