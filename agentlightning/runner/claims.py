"""Claims: taking work from the store's queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentlightning.runner.leases import Lease, Leases
from agentlightning.store.retry import persistently
from agentlightning.types import AttemptedRollout

if TYPE_CHECKING:
    from agentlightning.store import LightningStore


class Claims:
    """Takes rollouts from a store.

    The caller's own task waits, with no other one between it and the store: so a claim that its cancellation crosses is
    known to the store, which takes it back.

    Args:
        store: The store.
        worker_id: Who claims.
        leases: Where the worker's attempts are held.
        wait: Seconds of one wait for work.
        patience: Seconds for which a store that is away is asked again.
    """

    def __init__(self, store: LightningStore, worker_id: str, leases: Leases, wait: float, patience: float) -> None:
        self._store = store
        self._worker_id = worker_id
        self._leases = leases
        self._wait = wait
        self._patience = patience

    async def take(self, limit: int) -> Sequence[Lease]:
        """Take up to `limit` rollouts, to be held; none when nothing came for a while.

        Raises:
            StoreError: The store did not answer for longer than there is patience.
        """
        with self._leases.claiming():
            claimed = await self._dequeue(limit, 0.0) or await self._dequeue(limit, self._wait)
            return [self._leases.hold(rollout) for rollout in claimed]

    async def _dequeue(self, limit: int, wait: float) -> Sequence[AttemptedRollout]:
        return await persistently(
            lambda: self._store.dequeue_many_rollouts(limit=limit, worker_id=self._worker_id, wait=wait),
            what="claim rollouts",
            patience=self._patience,
            extra_seconds=wait,
        )
