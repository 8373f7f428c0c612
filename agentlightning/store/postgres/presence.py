"""The connection on which a store listens to the others, and by whose lock they know that somebody serves."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from agentlightning.store.postgres.address import Address
from agentlightning.store.postgres.connections import hang_up
from agentlightning.store.postgres.driver import FAILURES, Connection

logger = logging.getLogger(__name__)

_PROBE_SECONDS: Final = 30.0
"""How often a connection that says nothing is asked whether it still lives."""
_PROBE_TIMEOUT: Final = 10.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_CLOSE_SECONDS: Final = 2.0


class Presence:
    """Keeps the connection, whatever happens to it.

    Every store of a namespace holds a shared lock on it. One that gets the exclusive lock knows that nobody served
    until now, be it that no store was there or no database: the leases of that time could not be renewed.

    Args:
        address: The place.
        hear: Called with each payload that a store sends, this one included.
        rearm: Gives every live lease its full length again.
        caught_up: Called when the connection is there again, for what was said meanwhile was not heard.
    """

    def __init__(
        self,
        address: Address,
        hear: Callable[[str], object],
        rearm: Callable[[], Awaitable[object]],
        caught_up: Callable[[], object],
    ) -> None:
        self._address = address
        self._hear = hear
        self._rearm = rearm
        self._caught_up = caught_up
        self._connection: Connection | None = None
        self._doubted = asyncio.Event()
        self.here: Final = asyncio.Event()
        """Set while the lock is surely held: whoever ends leases may rely on it that all of them were armed."""

    async def open(self) -> None:
        """Connect, listen and take the lock."""
        connection = await self._address.connect()
        try:
            connection.add_termination_listener(lambda *_: self.doubt())
            await connection.add_listener(self._address.channel, lambda *event: self._hear(event[3]))
            await self._take_lock(connection)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        self.here.set()

    def doubt(self) -> None:
        """Another connection to the database was lost; look whether this one still lives."""
        self.here.clear()
        self._doubted.set()

    async def keep(self) -> None:
        """Open the connection again each time it is lost."""
        while True:
            await self._until_lost()
            logger.warning("The connection that listens to %s was lost; connecting again", self._address.place)
            await self._open_again()
            logger.info("Listening to %s again", self._address.place)
            self._caught_up()

    async def close(self) -> None:
        """Give up the connection."""
        if self._connection is not None:
            await hang_up(self._connection, _CLOSE_SECONDS)

    async def _take_lock(self, connection: Connection) -> None:
        key = self._address.lock("presence")
        alone: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", key)
        if alone:
            await self._rearm()
        await connection.execute("SELECT pg_advisory_lock_shared($1)", key)
        if alone:
            await connection.execute("SELECT pg_advisory_unlock($1)", key)

    async def _until_lost(self) -> None:
        assert self._connection is not None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._doubted.wait(), _PROBE_SECONDS)
            self._doubted.clear()
            if not await _lives(self._connection):
                self.here.clear()
                return
            self.here.set()

    async def _open_again(self) -> None:
        pause = _FIRST_PAUSE
        reason = ""
        while True:
            try:
                return await self.open()
            except Exception as error:  # noqa: BLE001  # whatever it is, those who wait depend on the next try
                if str(error) != reason:
                    reason = str(error)
                    logger.warning("Could not listen again: %s; trying on", reason)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST_PAUSE)


async def _lives(connection: Connection) -> bool:
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT):
            await connection.execute("SELECT 1")
    except FAILURES:
        connection.terminate()
        return False
    return True
