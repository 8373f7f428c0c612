"""Claims: taking work from the store's queue until somebody says stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from agentlightning._internal.aio import wait_for_flag
from agentlightning.runner.cancel import uninterrupted
from agentlightning.store.retry import retrying
from agentlightning.types import AttemptedRollout

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store import LightningStore

GIVE_BACK_DEADLINE: Final = 30.0
"""Seconds to put back what a cancelled runner has just claimed."""


class Claims:
    """Takes rollouts from a store.

    Args:
        store: The store.
        worker_id: Who claims.
        wait: Seconds of one wait for work.
    """

    def __init__(self, store: LightningStore, worker_id: str, wait: float) -> None:
        self._store = store
        self._worker_id = worker_id
        self._wait = wait
        self._stop: asyncio.Task[None] | None = None
        self._event: ExecutionEvent | None = None

    @asynccontextmanager
    async def until(self, event: ExecutionEvent | None) -> AsyncGenerator[None]:
        """Watch the event inside the block."""
        self._event = event
        if event is None:
            yield
            return
        self._stop = asyncio.create_task(wait_for_flag(event))
        try:
            yield
        finally:
            self._stop.cancel()
            await asyncio.wait({self._stop})

    @property
    def stopped(self) -> bool:
        """Whether the event is set."""
        return self._event is not None and self._event.is_set()

    async def take(self, limit: int) -> Sequence[AttemptedRollout]:
        """Return up to `limit` rollouts; none when the event was set or nothing came for a while.

        Raises:
            StoreError: The store did not answer, retries included.
        """
        return await self._dequeue(limit, 0.0) or await self._wait_for_work(limit)

    async def _wait_for_work(self, limit: int) -> Sequence[AttemptedRollout]:
        if self._stop is None:
            return await self._dequeue(limit, self._wait)
        waiting = asyncio.create_task(self._dequeue(limit, self._wait))
        try:
            await asyncio.wait({waiting, self._stop}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await uninterrupted(self._give_back(waiting), GIVE_BACK_DEADLINE)
            raise
        return await _result_of(waiting)

    async def _give_back(self, waiting: asyncio.Task[Sequence[AttemptedRollout]]) -> None:
        """Put back what was claimed at the very moment at which the runner was cancelled."""
        for rollout in await _result_of(waiting):
            await self._store.update_rollout(rollout.rollout_id, status="requeuing")

    async def _dequeue(self, limit: int, wait: float) -> Sequence[AttemptedRollout]:
        return await retrying(
            lambda: self._store.dequeue_many_rollouts(limit=limit, worker_id=self._worker_id, wait=wait),
            what="claim rollouts",
            extra_seconds=wait,
        )


async def _result_of(waiting: asyncio.Task[Sequence[AttemptedRollout]]) -> Sequence[AttemptedRollout]:
    """Stop a wait for work; returns what it has claimed if it had ended already."""
    waiting.cancel()  # the store takes back what a cancelled wait claimed
    await asyncio.wait({waiting})
    return [] if waiting.cancelled() else waiting.result()
