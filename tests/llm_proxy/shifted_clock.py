"""The running event loop's time, which a test moves on; and waiting that does not depend on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

DEADLINE = 60.0
_TURNS = 25


class Clock:
    """Moves the time of the loop that runs now: timers of the gateway and timeouts of async SDKs fall due."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead)

    async def advance(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, in steps between which the loop does what has fallen due."""
        passed = 0.0
        while passed < seconds:
            self._ahead += min(step, seconds - passed)
            passed += step
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    async def advance_until(self, condition: Callable[[], object]) -> None:
        """Let time pass until the condition holds."""
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, "it never came true"
            await self.advance(1.0)


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds, with a deadline in real time."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.002)
