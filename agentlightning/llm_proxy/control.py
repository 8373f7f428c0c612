"""Holding a gateway's calls: what its own process and others can ask for."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from agentlightning._internal.ids import generate_id
from agentlightning.errors import AgentLightningError, ConfigurationError
from agentlightning.llm_proxy.hold import LEASE_SECONDS, PATIENCE_SECONDS, HoldStatus

logger = logging.getLogger(__name__)

_RENEWALS: Final = 3
"""How often a lease is renewed before it would run out."""


class HoldControl(ABC):
    """What can hold the calls of a gateway."""

    @abstractmethod
    async def pause(self, owner: str, *, lease: float = LEASE_SECONDS, deadline: float = PATIENCE_SECONDS) -> None:
        """Hold all calls that come from now on; calls in flight go on. To pause again renews the lease.

        Args:
            owner: Who wants it. Calls go on when no owner holds them.
            lease: Seconds until calls go on without a sign of life of the owner's.
            deadline: Seconds that one call is held at most; then it is answered with 503, which clients take as a
                request to try again.

        Raises:
            ConfigurationError: A number is not positive, or the gateway does not run.
        """

    @abstractmethod
    async def renew(self, owner: str) -> bool:
        """Let an owner's lease begin anew; False if it holds nothing, or nothing any more."""

    @abstractmethod
    async def resume(self, owner: str) -> bool:
        """End an owner's hold; False if it held nothing, or nothing any more."""

    @abstractmethod
    async def drain(self, deadline: float) -> bool:
        """Wait until no call is in flight; False if `deadline` seconds were not enough."""

    @abstractmethod
    async def hold_status(self) -> HoldStatus:
        """Return what happens to calls now."""

    @asynccontextmanager
    async def hold(
        self, owner: str | None = None, *, drain: float = 60.0, lease: float = 30.0, deadline: float = PATIENCE_SECONDS
    ) -> AsyncGenerator[bool]:
        """Hold calls inside the block, which begins when no call is in flight, and keep the lease alive.

        The lease is kept alive by the calling event loop, which must not be blocked for longer than `lease` seconds.

        Args:
            owner: Who wants it; None makes a name.
            drain: Seconds to wait for calls in flight; the block gets False if they were not enough.
            lease: See `pause`; it matters when this process dies.
            deadline: See `pause`.
        """
        owner = owner or f"{socket.gethostname()}:{os.getpid()}:{generate_id(6)}"
        await self.pause(owner, lease=lease, deadline=deadline)
        keeper = asyncio.create_task(self._keep(owner, lease, deadline), name="agl-hold-lease")
        try:
            yield await self.drain(drain)
        finally:
            keeper.cancel()
            await asyncio.wait({keeper})
            await self._end(owner)

    async def _end(self, owner: str) -> None:
        try:
            if not await self.resume(owner):
                logger.warning("the gateway had let calls go on before the hold of %r ended", owner)
        except AgentLightningError as error:
            logger.warning("the hold of %r is left to its lease: %s", owner, error)

    async def _keep(self, owner: str, lease: float, deadline: float) -> None:
        while True:
            await asyncio.sleep(lease / _RENEWALS)
            try:
                if not await self.renew(owner):
                    logger.warning("the hold of %r ran out before it was renewed: calls went on, and wait again", owner)
                    await self.pause(owner, lease=lease, deadline=deadline)
            except AgentLightningError as error:
                logger.warning("the hold of %r is not renewed, next try in %g s: %s", owner, lease / _RENEWALS, error)


def check_hold(owner: str, lease: float, deadline: float) -> None:
    """Refuse a hold that means nothing.

    Raises:
        ConfigurationError: There is no owner, or a number is not positive and finite.
    """
    if not owner:
        raise ConfigurationError("a hold needs an owner: any text that says who wants it")
    for name, seconds in (("lease", lease), ("deadline", deadline)):
        if not (math.isfinite(seconds) and seconds > 0):
            raise ConfigurationError(f"{name} must be a positive number of seconds, not {seconds}")
