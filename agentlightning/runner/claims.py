"""Claims: taking work from the store's queue until somebody says stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentlightning.errors import RolloutCancelled
from agentlightning.runner.cancel import cancelled_by
from agentlightning.runner.leases import Lease, Leases
from agentlightning.store.retry import retrying
from agentlightning.types import AttemptedRollout

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store import LightningStore


class Claims:
    """Takes rollouts from a store.

    Args:
        store: The store.
        worker_id: Who claims.
        leases: Where the worker's attempts are held.
        wait: Seconds of one wait for work.
        event: Ends the waiting once it is set.
    """

    def __init__(
        self, store: LightningStore, worker_id: str, leases: Leases, wait: float, event: ExecutionEvent | None
    ) -> None:
        self._store = store
        self._worker_id = worker_id
        self._leases = leases
        self._wait = wait
        self._event = event

    @property
    def stopped(self) -> bool:
        """Whether the event is set."""
        return self._event is not None and self._event.is_set()

    async def take(self, limit: int) -> Sequence[Lease]:
        """Take up to `limit` rollouts, to be held; none when the event was set or nothing came for a while.

        Raises:
            StoreError: The store did not answer, retries included.
        """
        with self._leases.claiming():
            return [self._leases.hold(rollout) for rollout in await self._claim(limit)]

    async def _claim(self, limit: int) -> Sequence[AttemptedRollout]:
        if claimed := await self._dequeue(limit, 0.0):
            return claimed
        # The caller's own task waits, with no other one between it and the store: so a claim that its cancellation
        # crosses is known to the store, which takes it back.
        try:
            async with cancelled_by(self._event):
                return await self._dequeue(limit, self._wait)
        except RolloutCancelled:  # no rollout was there to be cancelled, just a wait for one
            return []

    async def _dequeue(self, limit: int, wait: float) -> Sequence[AttemptedRollout]:
        return await retrying(
            lambda: self._store.dequeue_many_rollouts(limit=limit, worker_id=self._worker_id, wait=wait),
            what="claim rollouts",
            extra_seconds=wait,
        )
