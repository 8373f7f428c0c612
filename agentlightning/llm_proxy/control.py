"""Holding a gateway's calls, from its own process or from another."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from agentlightning._internal.ids import generate_id
from agentlightning.errors import AgentLightningError, BackendUnreachable, ConfigurationError
from agentlightning.llm_proxy.hold import LEASE_SECONDS, PATIENCE_SECONDS, HoldStatus

logger = logging.getLogger(__name__)

_HTTP_SECONDS: Final = 10.0
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
    async def status(self) -> HoldStatus:
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
            if not await self.resume(owner):
                logger.warning("the gateway had let calls go on before the hold of %r ended", owner)

    async def _keep(self, owner: str, lease: float, deadline: float) -> None:
        while True:
            await asyncio.sleep(lease / _RENEWALS)
            try:
                if not await self.renew(owner):
                    logger.warning("the hold of %r ran out before it was renewed: calls went on, and wait again", owner)
                    await self.pause(owner, lease=lease, deadline=deadline)
            except AgentLightningError as error:
                logger.warning("the hold of %r is not renewed, next try in %g s: %s", owner, lease / _RENEWALS, error)


class GatewayControl(HoldControl):
    """Holds the calls of a gateway in another process; an async context manager.

    Args:
        url: The gateway's address, such as `http://10.0.0.1:4000`.
        token: The administrator's token, if the gateway has one.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def pause(self, owner: str, *, lease: float = LEASE_SECONDS, deadline: float = PATIENCE_SECONDS) -> None:
        """See `HoldControl`."""
        await self._ask("POST", "pause", {"owner": owner, "lease": lease, "deadline": deadline})

    async def renew(self, owner: str) -> bool:
        """See `HoldControl`."""
        return (await self._ask("POST", "renew", {"owner": owner}))["done"]

    async def resume(self, owner: str) -> bool:
        """See `HoldControl`."""
        return (await self._ask("POST", "resume", {"owner": owner}))["done"]

    async def drain(self, deadline: float) -> bool:
        """See `HoldControl`."""
        return (await self._ask("POST", "drain", {"deadline": deadline}, deadline))["done"]

    async def status(self) -> HoldStatus:
        """See `HoldControl`."""
        state = await self._ask("GET", "state")
        return HoldStatus(state["paused"], state["inflight"], state["held"], state["owners"])

    async def _ask(self, method: str, what: str, body: Mapping[str, Any] | None = None, longer: float = 0.0) -> Any:
        if self._session is None:
            raise ConfigurationError("a GatewayControl is used inside `async with`")
        url = f"{self._url}/proxy/{what}"
        timeout = aiohttp.ClientTimeout(total=_HTTP_SECONDS + longer)
        try:
            async with self._session.request(method, url, json=body, timeout=timeout) as answer:
                if answer.status != 200:
                    raise ConfigurationError(f"{url} answered {answer.status}: {await answer.text()}")
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BackendUnreachable(f"the gateway does not answer at {url}: {error!r}") from error
