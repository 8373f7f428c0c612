"""Up to where the spans are settled: nobody who writes just now will put one between those that are there.

Whoever writes spans holds a lock, shared, from before their positions are taken until they are committed. Readers look
who holds it and wait for those, not for whoever comes later; they do not ask for the lock, for behind one who waits for
it alone all who write would wait, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from pydantic_core import to_json

from agentlightning.errors import TooBusy
from agentlightning.store.postgres.transaction import Operation
from agentlightning.store.sql.transaction import Transaction

_WAIT_SECONDS: Final = 20.0
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.05

# A position below the last committed one was taken before that was committed: its writer holds the lock, or has ended.
_LAST: Final = "SELECT COALESCE(MAX(position), 0) FROM spans"
_WRITERS: Final = """
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted AND objsubid = 1
        AND (classid::bigint << 32) | objid::bigint = ?
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_STILL: Final = f"{_WRITERS} AND virtualtransaction IN (SELECT value FROM json_each(?))"


async def settled_position(read: Callable[[Operation[Any]], Awaitable[Any]], key: int, cursor: int) -> int:
    """Return the position of the last span, once everybody has committed who may write one before it.

    Args:
        read: Runs an operation; no connection is held while this waits.
        key: The advisory lock of those who write spans.
        cursor: A settled position; where none comes after it, nobody is waited for.

    Raises:
        TooBusy: Somebody writes spans in one transaction for longer than a reader waits.
    """
    last, writers = await read(partial(_look, key=key))
    if last <= cursor:
        return last
    give_up = asyncio.get_running_loop().time() + _WAIT_SECONDS
    pause = _FIRST_PAUSE
    while writers:
        if asyncio.get_running_loop().time() > give_up:
            raise TooBusy(f"somebody has written spans in one transaction for {_WAIT_SECONDS} s: read them afterwards")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        writers = await read(partial(_names, sql=_STILL, params=(key, to_json(writers).decode())))
    return last


async def _look(tx: Transaction, key: int) -> tuple[int, list[str]]:
    ((last,),) = await tx.fetch(_LAST)  # sees the moment at which the transaction began
    return last, await _names(tx, _WRITERS, (key,))


async def _names(tx: Transaction, sql: str, params: Sequence[int | str]) -> list[str]:
    return [name for (name,) in await tx.fetch(sql, params)]
