"""Runners of this machine in a run whose algorithm is elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from agentlightning._internal.aio import wait_for_flag
from agentlightning.errors import Forbidden, StoreClosed, StoreError, StoreUnreachable, TooBusy, Unauthorized
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.run_store import RunClient

logger = logging.getLogger(__name__)

_JOIN_SECONDS: Final = 60.0
"""For the algorithm's process to come up."""
_PAUSE: Final = 1.0
_LEAVE_SECONDS: Final = 5.0
_AWAY = (StoreUnreachable, StoreClosed, TooBusy)


class Membership:
    """Takes part in a run, and knows when it ends.

    Args:
        client: The store of the run; None where the store is one that knows of no run.

    Attributes:
        first: The number of the first runner.
    """

    def __init__(self, client: RunClient | None) -> None:
        self.first = 0
        self._client = client
        self._joined = False

    async def join(self, runners: int) -> None:
        """Join the run, waiting for its store to come up.

        Raises:
            StoreUnreachable: It does not.
            Unauthorized: The token is missing or wrong.
        """
        if self._client is None:
            return
        give_up = time.monotonic() + _JOIN_SECONDS
        while True:
            try:
                self.first, self._joined = await self._client.join_run(runners), True
                return
            except _AWAY as error:
                if time.monotonic() > give_up:
                    raise
                logger.warning("Waiting for the algorithm's process: %s", error)
            except (Unauthorized, Forbidden):
                raise
            except StoreError as error:
                logger.warning(
                    "The store at %s belongs to no run (%s): these runners serve it until they are stopped.",
                    self._client.server_address_root,
                    error,
                )
                return
            await asyncio.sleep(_PAUSE)

    async def until_the_end(self, over: ThreadingEvent) -> None:
        """Return when the run has ended, or `over` is set; while its store is away, the runners decide."""
        ended = asyncio.create_task(self._run_ended())
        gone = asyncio.create_task(wait_for_flag(over))
        try:
            await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
        finally:
            ended.cancel()
            gone.cancel()

    async def leave(self) -> None:
        """Say that the runners have ended."""
        try:
            if self._client is not None and self._joined:
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self._client.leave_run(str(self.first))
        except (StoreError, TimeoutError) as error:
            logger.debug("The run need not be told that its runners have ended: %s", error)

    async def _run_ended(self) -> None:
        while self._client is None or not self._joined:
            await asyncio.Event().wait()
        while True:
            try:
                if await self._client.watch_run(str(self.first), wait=float("inf")):
                    return
            except _AWAY as error:
                logger.warning("The run cannot be watched: %s", error)
                await asyncio.sleep(_PAUSE)
