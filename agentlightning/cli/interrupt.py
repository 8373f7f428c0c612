"""Ctrl+C where nothing has begun yet, and where everything is over."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

INTERRUPTED: Final = 130
"""The shell's exit code for Ctrl+C: 128 + SIGINT."""


def ignore_interrupts() -> None:
    """Let the process end in peace: Python's own end takes a while, and a second Ctrl+C would change its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def interrupt_exits_at_once() -> Generator[None]:
    """Let Ctrl+C end the process inside the block, which must leave nothing behind.

    For imports: libraries catch everything in theirs, so a KeyboardInterrupt raised there may be lost for good.
    """
    previous = signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
