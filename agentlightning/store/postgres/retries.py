"""Which failures of a transaction are met by running it again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from agentlightning.errors import InvalidValue, StoreError, StoreUnreachable
from agentlightning.store.postgres.driver import asyncpg

T = TypeVar("T")

_COLLISIONS: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError)
_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # the database stops, or somebody ended the connection
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    ConnectionError,
    StoreUnreachable,
)
_UNKEEPABLE: Final = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)
_TRIES_AFTER_COLLISIONS: Final = 8
_RECONNECT_SECONDS: Final = 10.0
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 1.0


async def again_where_it_helps(attempt: Callable[[], Awaitable[T]]) -> T:
    """Await `attempt()`, a transaction that did nothing if it fails, until it succeeds or trying again is of no use.

    Transactions that met try again a few times, those that lost their connection for ten seconds.

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
        except _COLLISIONS as error:
            collisions += 1
            if collisions == _TRIES_AFTER_COLLISIONS:
                raise _failed(error) from error
        except _LOST as error:
            if isinstance(error, (asyncpg.QueryCanceledError, asyncpg.DataError)):
                raise _failed(error) from error
            if loop.time() > give_up:
                raise _unreachable(error) from error
        except _UNKEEPABLE as error:
            raise InvalidValue(f"PostgreSQL cannot keep NUL characters ({error}): replace them") from error
        except (asyncpg.PostgresError, OSError) as error:
            raise _failed(error) from error
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _failed(error: Exception) -> StoreError:
    return StoreError(f"the database failed: {type(error).__name__}: {error}")


def _unreachable(error: Exception) -> StoreError:
    if isinstance(error, StoreUnreachable):
        return error
    return StoreUnreachable(
        f"PostgreSQL was lost ({type(error).__name__}: {error}) and not found again in {_RECONNECT_SECONDS} s: "
        "see that it runs; nothing of this operation was written"
    )
