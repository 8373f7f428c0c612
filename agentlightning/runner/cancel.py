"""What may be interrupted, and what must not be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning._internal.aio import wait_for_flag
from agentlightning.errors import RolloutCancelled

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent

ResultT = TypeVar("ResultT")


@asynccontextmanager
async def cancelled_by(event: ExecutionEvent | None) -> AsyncGenerator[None]:
    """Cancel the block once the event is set, and make sure that a cancelled block never looks finished.

    Raises:
        RolloutCancelled: The event was set.
        CancelledError: The task was cancelled, even if the block swallowed that.
    """
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    watcher = None
    if event is not None:
        if event.is_set():
            raise RolloutCancelled("the stop event was set before the agent started")
        watcher = asyncio.create_task(_cancel_on(event, task))
    try:
        yield
    except asyncio.CancelledError as error:
        if not _fired(watcher) or task.uncancel() > cancellations:
            raise
        raise RolloutCancelled("the stop event was set while the agent ran") from error
    finally:
        if watcher is not None:
            watcher.cancel()
    if _fired(watcher):
        task.uncancel()
        raise RolloutCancelled("the stop event was set while the agent ran")
    if task.cancelling() > cancellations:
        raise asyncio.CancelledError("the task was cancelled and the agent went on")


async def _cancel_on(event: ExecutionEvent, task: asyncio.Task[Any]) -> None:
    await wait_for_flag(event)
    task.cancel()


def _fired(watcher: asyncio.Task[None] | None) -> bool:
    return watcher is not None and watcher.done() and not watcher.cancelled()


async def uninterrupted(work: Coroutine[Any, Any, ResultT], deadline: float) -> ResultT:
    """Await something to its end even while the caller is being cancelled; the cancellation is raised afterwards.

    Args:
        work: What to do.
        deadline: Seconds after which it is given up.

    Raises:
        TimeoutError: It took too long.
    """
    result, cancelled = await settled(work, deadline)
    if cancelled is not None:
        raise cancelled
    return result


async def settled(work: Coroutine[Any, Any, ResultT], deadline: float) -> tuple[ResultT, asyncio.CancelledError | None]:
    """Like `uninterrupted`, but return the result together with the cancellation, for the caller to raise."""
    task = asyncio.create_task(_within(work, deadline))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    return task.result(), cancelled


async def _within(work: Coroutine[Any, Any, ResultT], deadline: float) -> ResultT:
    async with asyncio.timeout(deadline):
        return await work
