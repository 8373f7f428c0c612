"""Ctrl+C and SIGTERM while an event loop runs."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, NoReturn

_LOOP_SECONDS: Final = 1.0
"""How long a loop that is well may take to hear of a Ctrl+C, on a machine that does much else."""
TERMINATED: Final = 128 + signal.SIGTERM
"""The exit code of a program that SIGTERM ended."""


@contextmanager
def interrupts_cancel(loop: asyncio.AbstractEventLoop, cancel: Callable[[], None]) -> Generator[None]:
    """Let every Ctrl+C inside the block cancel what runs there, and raise KeyboardInterrupt after it.

    `asyncio.Runner` does that once and raises from the second time on, in whatever code the loop runs just then, which
    breaks what must not be half done. A second cancellation only ends a wait: it shortens the clean-up and corrupts
    nothing. Where synchronous code holds the loop, so that the first Ctrl+C had no effect, a later one does raise.
    SIGTERM does the same, and raises `SystemExit(143)`.

    Outside the main thread, or where the program handles a signal itself, nothing is changed.

    Args:
        loop: The loop that runs in the block.
        cancel: Cancels what runs there; called by the loop.
    """
    heard: int | None = None
    since = 0.0
    loop_reacts = False

    def react() -> None:
        nonlocal loop_reacts
        loop_reacts = True
        cancel()

    def on_signal(number: int, _frame: object) -> None:
        nonlocal heard, since
        now = time.monotonic()
        if heard is None:
            heard, since = number, now
        elif not loop_reacts:
            if now < since + _LOOP_SECONDS:
                return
            _raise_for(number)
        loop.call_soon_threadsafe(react)

    with _handled(on_signal):
        try:
            yield
        except asyncio.CancelledError:
            if heard is None:
                raise
    if heard is not None:
        _raise_for(heard)


@contextmanager
def interrupts_raise() -> Generator[None]:
    """Let Ctrl+C raise KeyboardInterrupt inside the block, which holds an event loop up, and SIGTERM `SystemExit(143)`.

    A handler of the loop, such as that of `asyncio.run`, could do nothing there. Outside the main thread nothing is
    changed.
    """

    def on_signal(number: int, _frame: object) -> None:
        _raise_for(number)

    with _handled(on_signal, also=signal.SIGINT):
        yield


@contextmanager
def _handled(handler: Callable[[int, object], None], also: int | None = None) -> Generator[None]:
    """Give the two signals to a handler, where the program leaves them to Python; `also` in any case."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.getsignal(number) for number in defaults}
    ours = {
        number: former
        for number, former in before.items()
        if former is defaults[number] or (number == also and callable(former))
    }
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in ours.items():
            signal.signal(number, former)


def _raise_for(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(TERMINATED)
