"""Ctrl+C while an event loop runs."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

_LOOP_SECONDS: Final = 1.0
"""How long a loop that is well may take to hear of a Ctrl+C, on a machine that does much else."""


@contextmanager
def interrupts_cancel(loop: asyncio.AbstractEventLoop, cancel: Callable[[], None]) -> Generator[None]:
    """Let every Ctrl+C inside the block cancel what runs there, and raise KeyboardInterrupt after it.

    `asyncio.Runner` does that once and raises from the second time on, in whatever code the loop runs just then, which
    breaks what must not be half done. A second cancellation only ends a wait: it shortens the clean-up and corrupts
    nothing. Where synchronous code holds the loop, so that the first Ctrl+C had no effect, a later one does raise.

    Outside the main thread, or where the program handles Ctrl+C itself, nothing is changed.

    Args:
        loop: The loop that runs in the block.
        cancel: Cancels what runs there; called by the loop.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupted: float | None = None
    loop_reacts = False

    def react() -> None:
        nonlocal loop_reacts
        loop_reacts = True
        cancel()

    def on_interrupt(_signal: int, _frame: object) -> None:
        nonlocal interrupted
        now = time.monotonic()
        if interrupted is None:
            interrupted = now
        elif not loop_reacts:
            if now < interrupted + _LOOP_SECONDS:
                return
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(react)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if interrupted is None:
            raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupted is not None:
        raise KeyboardInterrupt
