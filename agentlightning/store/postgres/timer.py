"""The clock of the leases: ends the attempts whose deadline has come, when it comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from agentlightning.store.postgres.transaction import Operation
from agentlightning.store.sql.deadlines import earliest_deadline, expire_due
from agentlightning.store.sql.transaction import Transaction

logger = logging.getLogger(__name__)

_BATCH: Final = 1
"""How many attempts end in one transaction. Of several, the second one's worker would come after the first one's place
in a counter, against the order in which everybody takes what they change. Each takes some two milliseconds, so where
more than twenty or so are due at one moment the last ones end later than 50 ms; twenty-five at a time took no less."""
_BUSY_PAUSE: Final = 0.01
"""Seconds until a deadline that has come is looked at again: another transaction holds its rollout."""
_FAILURE_PAUSE: Final = 1.0


class Timer:
    """Sleeps until the earliest deadline in the database.

    Args:
        write: Runs an operation in a transaction and tells the waiters of its changes.
        here: Set while it is sure that the database was not away since the leases were armed.
    """

    def __init__(
        self, write: Callable[[Operation[float | None]], Awaitable[float | None]], here: asyncio.Event
    ) -> None:
        self._write = write
        self._here = here
        self._alarm = asyncio.Event()
        self._offset = 0.0  # what the database's clock is ahead of the loop's
        self._next: float | None = None  # by the loop's clock

    def announce(self, deadline: float) -> None:
        """An attempt may be over at this time of the lease clock."""
        due = deadline - self._offset
        if self._next is None or due < self._next:
            self._next = due
            self._alarm.set()

    def look_again(self) -> None:
        """Something may have been announced that was not heard."""
        self._next = asyncio.get_running_loop().time()
        self._alarm.set()

    async def run(self) -> None:
        """End what is due, for ever."""
        while True:
            await self._here.wait()
            await self._end_what_is_due()
            await self._sleep()

    async def _end_what_is_due(self) -> None:
        loop = asyncio.get_running_loop()
        self._next = None  # what is announced from here on counts
        try:
            deadline = await self._write(self._enforce)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next deadline must be kept
            logger.error("Could not end the attempts whose time is up: %s; again in %s s", error, _FAILURE_PAUSE)
            self._sooner(loop.time() + _FAILURE_PAUSE)
        else:
            if deadline is not None:
                self._sooner(deadline - self._offset)

    async def _enforce(self, tx: Transaction) -> float | None:
        """Returns when to come back, by the database's clock."""
        self._offset = tx.clock - asyncio.get_running_loop().time()
        if not self._here.is_set():  # lost while this transaction was tried again
            return tx.clock
        ended = await expire_due(tx, _BATCH)
        deadline = await earliest_deadline(tx)
        if deadline is None or ended == _BATCH:  # there may be more
            return deadline
        return max(deadline, tx.clock + _BUSY_PAUSE)

    async def _sleep(self) -> None:
        loop = asyncio.get_running_loop()
        while self._next is None or self._next > loop.time():
            self._alarm.clear()
            try:
                async with asyncio.timeout_at(self._next):
                    await self._alarm.wait()
            except TimeoutError:
                return

    def _sooner(self, due: float) -> None:
        self._next = due if self._next is None else min(due, self._next)
