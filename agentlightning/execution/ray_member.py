"""A runner in a Ray actor, from the strategy's side."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, Final

from agentlightning._internal.aio import to_its_end, wait_for_flag
from agentlightning._internal.threads import run_in_thread
from agentlightning.execution.events import ExecutionEvent
from agentlightning.execution.parts import Order
from agentlightning.execution.ray_cluster import load_ray
from agentlightning.processes.failure import Failure

logger = logging.getLogger(__name__)

_KILL_SECONDS: Final = 5.0
"""For Ray to take the order to kill an actor, and again to say that it is dead."""


class RayMember:
    """Follows an actor through its lives.

    Args:
        actor: The handle of a `RayRunner`, which Ray may still have to find a place for.
        work: A reference to the runner's bundle, pickled.
        who: Whose it is, for logs.
        cancel_seconds: How long it may clean up once it was cancelled.

    Attributes:
        ended_well: Whether its last run has ended without an error, by itself or as told; it has left nothing in
            hand then.
    """

    def __init__(self, actor: Any, work: Any, who: str, cancel_seconds: float) -> None:
        self._actor = actor
        self._work = work
        self._who = who
        self._cancel_seconds = cancel_seconds
        self.ended_well = False

    async def up(self) -> None:
        """Return once it is there, after a restart, too.

        Raises:
            ray.exceptions.ActorDiedError: It never will be.
        """
        await _answer(self._actor.ready.options(max_task_retries=-1).remote())

    async def run(self, event: ExecutionEvent) -> Failure | None:
        """Run it to its end; the event tells it to stop. When the caller is cancelled, it is cancelled, too.

        Returns:
            What it failed with.

        Raises:
            ray.exceptions.RayActorError: It died.
        """
        running: asyncio.Task[Failure | None] = asyncio.create_task(_answer(self._actor.run.remote(self._work)))
        stopping = asyncio.create_task(self._stop_on(event))
        self.ended_well = False
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._actor.tell.remote(Order.CANCEL)
            await self._wait_for_the_end(running)
            raise
        finally:
            self.ended_well = running.done() and running.exception() is None and running.result() is None
            drop(stopping)
            drop(running)

    async def _wait_for_the_end(self, running: asyncio.Task[Failure | None]) -> None:
        """Give the runner time to clean up; it can claim nothing any more when this returns, or is cancelled."""
        try:
            if not (await asyncio.wait({running}, timeout=self._cancel_seconds))[0]:
                logger.warning("%s did not end within %g s and is killed.", self._who, self._cancel_seconds)
        finally:
            if not running.done():
                await to_its_end(self._kill_and_wait(running))

    async def _kill_and_wait(self, running: asyncio.Task[Failure | None]) -> None:
        await self.kill()
        await asyncio.wait({running}, timeout=_KILL_SECONDS)

    async def kill(self) -> None:
        """End it for good, wherever it is, and also while it waits for a place."""
        ray = load_ray()
        try:
            # In a thread of its own, as Ray blocks for good where the cluster has lost its head.
            async with asyncio.timeout(_KILL_SECONDS):
                await run_in_thread(partial(ray.kill, self._actor), f"agl-kill-{self._who}")
        except (TimeoutError, ray.exceptions.RayError):
            logger.warning("%s may live on: the cluster does not answer.", self._who)

    async def _stop_on(self, event: ExecutionEvent) -> None:
        await wait_for_flag(event)
        self._actor.tell.remote(Order.STOP)


async def _answer(reference: Any) -> Any:
    return await asyncio.wrap_future(reference.future())


def drop(task: asyncio.Task[Any]) -> None:
    """Cancel a task whose outcome nobody needs."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    task.cancel()
