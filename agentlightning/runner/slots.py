"""Slots: the attempts that a runner works on at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from agentlightning.errors import RolloutCancelled
from agentlightning.runner.cancel import cancelled_by
from agentlightning.runner.leases import Lease
from agentlightning.runner.stop import Reason

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent


class Slots:
    """Works on up to `count` attempts at the same time.

    Args:
        count: How many.
        group: Whose tasks the attempts are.
        work: Runs one attempt to its end.
    """

    def __init__(
        self, count: int, group: asyncio.TaskGroup, work: Callable[[Lease], Coroutine[Any, Any, None]]
    ) -> None:
        self._count = count
        self._group = group
        self._work = work
        self._active: dict[asyncio.Task[None], Lease] = {}
        self._freed = asyncio.Event()

    async def free(self) -> int:
        """Return how many slots are free, once that is at least one."""
        while len(self._active) >= self._count:
            self._freed.clear()
            await self._freed.wait()
        return self._count - len(self._active)

    def fill(self, lease: Lease) -> None:
        """Begin to work on an attempt."""
        task = self._group.create_task(self._work(lease))
        self._active[task] = lease
        task.add_done_callback(self._free)

    async def finish(self, event: ExecutionEvent | None, grace: float) -> None:
        """Let all attempts end; when the event is set, those that have not ended `grace` seconds later are stopped."""
        try:
            async with cancelled_by(event):
                await self._all_ended(None)
        except RolloutCancelled:  # no rollout was cancelled, just the wait for them
            await self._all_ended(grace)
            for lease in self._active.values():
                lease.stop.tell(Reason(f"the runner was told to stop, and the agent did not end within {grace:g} s"))

    async def _all_ended(self, timeout: float | None) -> None:
        if self._active:
            await asyncio.wait(set(self._active), timeout=timeout)

    def _free(self, task: asyncio.Task[None]) -> None:
        del self._active[task]
        self._freed.set()
