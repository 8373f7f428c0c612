"""Holding the calls of a gateway in this process, from any of its event loops."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from agentlightning._internal.aio import runs_here
from agentlightning.llm_proxy.control import HoldControl, check_hold
from agentlightning.llm_proxy.hold import LEASE_SECONDS, PATIENCE_SECONDS, Gate, HoldStatus

T = TypeVar("T")


class LocalControl(HoldControl):
    """What can hold calls at a gate of this process."""

    @abstractmethod
    def _gate(self) -> Gate:
        """Return the gate.

        Raises:
            ConfigurationError: There is none now.
        """

    async def pause(self, owner: str, *, lease: float = LEASE_SECONDS, deadline: float = PATIENCE_SECONDS) -> None:
        """See `HoldControl`."""
        check_hold(owner, lease, deadline)
        await self._call(lambda gate: gate.close(owner, lease, deadline))

    async def renew(self, owner: str) -> bool:
        """See `HoldControl`."""
        return await self._call(lambda gate: gate.renew(owner))

    async def resume(self, owner: str) -> bool:
        """See `HoldControl`."""
        return await self._call(lambda gate: gate.open(owner))

    async def drain(self, deadline: float) -> bool:
        """See `HoldControl`."""
        gate = self._gate()
        return await _there(gate.loop, gate.drain(deadline))

    async def hold_status(self) -> HoldStatus:
        """See `HoldControl`."""
        return await self._call(Gate.status)

    async def _call(self, function: Callable[[Gate], T]) -> T:
        gate = self._gate()

        async def call() -> T:
            return function(gate)

        return await _there(gate.loop, call())


async def _there(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    if runs_here(loop):
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
