"""Holding the calls of a gateway in another process."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from agentlightning.errors import BackendUnreachable, ConfigurationError
from agentlightning.llm_proxy.control import HoldControl
from agentlightning.llm_proxy.hold import LEASE_SECONDS, PATIENCE_SECONDS, HoldStatus

_HTTP_SECONDS: Final = 10.0


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

    async def hold_status(self) -> HoldStatus:
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
                if answer.status == 200:
                    return await answer.json()
                failure = ConfigurationError if answer.status < 500 else BackendUnreachable
                raise failure(f"{url} answered {answer.status}: {await answer.text()}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BackendUnreachable(f"the gateway does not answer at {url}: {error!r}") from error
