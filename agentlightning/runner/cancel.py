"""What may be interrupted, and what must not be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning._internal.aio import wait_for_flag
from agentlightning.errors import RolloutCancelled

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


@asynccontextmanager
async def cancelled_by(
    event: ExecutionEvent | asyncio.Event | None, reason: str = "the stop event was set before the agent ended"
) -> AsyncGenerator[None]:
    """Cancel the block once the event is set, and make sure that a cancelled block never looks finished.

    Args:
        event: Cancels the block; None never does.
        reason: What the event means, for the error.

    Raises:
        RolloutCancelled: The event was set, whatever error the block made of that.
        CancelledError: The task was cancelled, even if the block swallowed that.
    """
    task = asyncio.current_task()
    assert task is not None
    cancellations, fired = task.cancelling(), asyncio.Event()
    watcher = None if event is None else asyncio.create_task(_cancel_on(event, task, fired))
    failure: BaseException | None = None
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # raised below, unless the event caused it
        failure = error
    finally:
        if watcher is not None:
            watcher.cancel()
        if fired.is_set():
            task.uncancel()
    if task.cancelling() > cancellations:
        raise failure or asyncio.CancelledError("the task was cancelled and the agent went on")
    if fired.is_set():
        raise RolloutCancelled(reason) from failure
    if failure is not None:
        raise failure


async def _cancel_on(event: ExecutionEvent | asyncio.Event, task: asyncio.Task[Any], fired: asyncio.Event) -> None:
    try:
        await (event.wait() if isinstance(event, asyncio.Event) else wait_for_flag(event))
    except Exception:
        logger.exception("The stop event cannot be watched, so it will not cancel the agent")
        return
    fired.set()
    task.cancel()


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
