"""What may be interrupted, and what must not be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning._internal.aio import wait_for_flag
from agentlightning.runner.stop import TOLD, Stop

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


@asynccontextmanager
async def cancelled_by(event: ExecutionEvent | None) -> AsyncGenerator[None]:
    """Cancel the block once the event is set; None never does.

    Raises:
        RolloutCancelled: The event was set, whatever error the block made of that.
        CancelledError: The task was cancelled, even if the block swallowed that.
    """
    stop = Stop()
    async with told_by(event, stop):
        with stop.cancels():
            yield


@asynccontextmanager
async def told_by(event: ExecutionEvent | None, stop: Stop) -> AsyncGenerator[None]:
    """Tell the stop once the event is set, within the block."""
    watcher = None if event is None else asyncio.create_task(_tell_on(event, stop))
    try:
        yield
    finally:
        if watcher is not None:
            watcher.cancel()


async def _tell_on(event: ExecutionEvent, stop: Stop) -> None:
    try:
        await wait_for_flag(event)
    except Exception:
        logger.exception("The stop event cannot be watched, so it will not cancel the agent")
        return
    stop.tell(TOLD)


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
    """Like `uninterrupted`, but return the result together with the cancellation, for the caller to raise.

    Without a result, the cancellation is raised from the error.
    """
    task = asyncio.create_task(_within(work, deadline))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and (error := task.exception()) is not None:
        raise cancelled from error
    return task.result(), cancelled


async def _within(work: Coroutine[Any, Any, ResultT], deadline: float) -> ResultT:
    async with asyncio.timeout(deadline):
        return await work
