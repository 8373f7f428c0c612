"""Starts: a rollout with its attempt, past the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from agentlightning.errors import RolloutCancelled
from agentlightning.runner.cancel import cancelled_by, settled
from agentlightning.runner.leases import Lease, Leases
from agentlightning.store.retry import persistently
from agentlightning.types import AttemptedRollout, NamedResources, RolloutMode

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store import LightningStore

START_DEADLINE: Final = 60.0
"""Seconds for the store to start a rollout."""


async def start_directly(
    store: LightningStore,
    leases: Leases,
    *,
    input: Any,
    resources: NamedResources | None,
    mode: RolloutMode | None,
    worker_id: str,
    patience: float,
    event: ExecutionEvent | None,
) -> tuple[Lease, BaseException | None]:
    """Start a rollout and hold its attempt.

    A start whose answer is lost leaves a rollout that nobody runs; it ends when a heartbeat does not list its attempt.

    Args:
        store: The store.
        leases: Where the worker's attempts are held.
        input: The task.
        resources: What to run it with; None takes the latest there are.
        mode: The split it belongs to.
        worker_id: Who runs it.
        patience: Seconds for which a store that is away is asked again.
        event: Gives it up once it is set.

    Returns:
        The attempt, with what interrupted its start: one that was started must be ended.

    Raises:
        StoreError: The store did not answer for longer than there is patience.
        RolloutCancelled: The event was set before anything was started.
    """
    resources_id: str | None = None
    started: AttemptedRollout | None = None
    interruption: BaseException | None = None

    def start() -> Coroutine[Any, Any, tuple[AttemptedRollout, asyncio.CancelledError | None]]:
        request = store.start_rollout(input=input, mode=mode, resources_id=resources_id, worker_id=worker_id)
        return settled(request, START_DEADLINE)

    with leases.claiming():
        try:
            async with cancelled_by(event):
                if resources is not None:
                    update = await persistently(
                        lambda: store.add_resources(resources), what="add resources", patience=patience
                    )
                    resources_id = update.resources_id
                started, interruption = await persistently(
                    start, what="start a rollout", patience=patience, extra_seconds=START_DEADLINE
                )
        except (RolloutCancelled, asyncio.CancelledError) as error:
            if started is None:
                raise
            interruption = error
        return leases.hold(started), interruption
