"""Agents that go on when they are cancelled: waited for a little, then given up."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Coroutine
from typing import Any

from agentlightning.errors import AgentError

logger = logging.getLogger(__name__)


async def ended_or_given_up(work: Coroutine[Any, Any, Any], grace: float, what: str) -> Any:
    """Await an agent in a task of its own, and return or raise what it does.

    When the caller is cancelled so is the agent. One that has not ended `grace` seconds later is closed where it
    stands: nothing that it does afterwards counts, and the caller goes on.

    Args:
        work: The agent at work.
        grace: Seconds it gets to end.
        what: Who that is, for the log.
    """
    guarded = _kept(work)
    task = asyncio.create_task(guarded)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        if (error := await _cancelled(task, guarded, grace, what)) is not None:
            raise error from None
        raise
    finally:
        if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:  # it was cancelled before it began
            work.close()
    value, error = task.result()
    if error is not None:
        raise error
    return value


async def _cancelled(
    task: asyncio.Task[Any], work: Coroutine[Any, Any, Any], grace: float, what: str
) -> BaseException | None:
    """Cancel the agent; returns what it raised, if anything, within its time."""
    task.cancel()
    try:
        await asyncio.wait({task}, timeout=grace)
    finally:  # whoever is cancelled again does not wait at all
        if not task.done():
            logger.warning("%s does not end when it is cancelled, and is given up", what)
            _close(task, work)
    return task.result()[1] if task.done() and not task.cancelled() else None


async def _kept(work: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Keep what the agent raises: a task lets SystemExit, and all that is like it, end the event loop."""
    try:
        return await work, None
    except GeneratorExit as error:
        if not _was_raised_inside(error):
            raise
        return None, AgentError(f"the agent raised GeneratorExit: {error}")
    except BaseException as error:  # noqa: BLE001  # raised again in the caller's task
        return None, error


def _was_raised_inside(error: GeneratorExit) -> bool:
    """Whether the agent raised it, and not Python, as it throws the coroutine away."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is not None


def _close(task: asyncio.Task[Any], work: Coroutine[Any, Any, Any]) -> None:
    """End a coroutine that swallows cancellations, so that it cannot keep its event loop from being closed."""
    work.close()
    task.add_done_callback(_look_away)
    task.cancel()


def _look_away(task: asyncio.Task[Any]) -> None:
    """A task whose coroutine was closed ends with an error, which means nothing."""
    if not task.cancelled():
        task.exception()
