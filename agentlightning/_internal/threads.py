"""Synchronous work beside an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


async def run_in_thread(function: Callable[[], Any], name: str) -> Any:
    """Call a user's function in a new daemon thread with the caller's context, and return what it returns.

    There is no pool: functions that block must not queue behind each other, nor keep the program from ending. When the
    caller is cancelled the thread goes on and its result is dropped, as threads cannot be stopped.

    Args:
        function: What to call.
        name: The thread's name.
    """
    loop = asyncio.get_running_loop()
    # The future carries (value, error): a future cannot hold a StopIteration.
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def call() -> None:
        try:
            outcome = context.run(function), None
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's task
            outcome = None, error
        try:
            loop.call_soon_threadsafe(_set_outcome, done, outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            logger.info("The thread %s ended after its event loop was closed; its result is lost", name)

    threading.Thread(target=call, name=name, daemon=True).start()
    value, error = await done
    if error is not None:
        raise error
    return value


async def run_to_its_end(function: Callable[..., ResultT], *args: Any) -> ResultT:
    """Like `asyncio.to_thread`, but a cancelled caller waits for the thread before it goes on.

    For work that what follows must not overtake: a checkpoint may not be written while a step changes the weights.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args))
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return work.result()


def _set_outcome(
    done: asyncio.Future[tuple[Any, BaseException | None]], outcome: tuple[Any, BaseException | None]
) -> None:
    if not done.done():
        done.set_result(outcome)
