"""Sync agents run in a thread of their own."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


async def run_in_thread(function: Callable[[], Any]) -> Any:
    """Call a function in a new daemon thread with the caller's context, and return what it returns.

    There is no pool: agents that block must not queue behind each other, nor keep the program from ending. When the
    caller is cancelled the thread goes on and its result is dropped, as threads cannot be stopped.
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
            logger.warning("An agent ended after its event loop was closed; its result is lost")

    threading.Thread(target=call, name="agent", daemon=True).start()
    value, error = await done
    if error is not None:
        raise error
    return value


def _set_outcome(
    done: asyncio.Future[tuple[Any, BaseException | None]], outcome: tuple[Any, BaseException | None]
) -> None:
    if not done.done():
        done.set_result(outcome)
