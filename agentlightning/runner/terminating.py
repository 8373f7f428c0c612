"""SIGTERM to a runner's process: its attempts end in the right status before it does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent


@contextmanager
def terminating(event: ExecutionEvent) -> Generator[None]:
    """Let SIGTERM set the event inside the block, and a second one cancel the calling task.

    So `iter` claims nothing more and gives its rollouts `stop_grace` seconds, which a second SIGTERM cuts short:

        event = ThreadingEvent()
        with terminating(event):
            await runner.iter(event=event)

    Call it in the event loop of the main thread, the only one that hears of signals.

    Args:
        event: What `iter` is given.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    before = signal.getsignal(signal.SIGTERM)

    def stop() -> None:
        if event.is_set():
            task.cancel()
        event.set()

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
