"""Whether a backend answers: told by the answers to calls, and by asking one that gave none."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentlightning.llm_proxy.backends import Backend

logger = logging.getLogger(__name__)

_FAILURES: Final = 3
"""After how many failures in a row a backend is left out."""
_FIRST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 30.0


@dataclass(slots=True, eq=False)
class Health:
    """What the last calls of a backend say.

    Attributes:
        failures: How many failed in a row.
        out: Whether calls go elsewhere, if they can.
        outages: How often it was left out, or was asked in vain whether it is back, since a call succeeded.
    """

    failures: int = 0
    out: bool = False
    outages: int = 0

    def succeed(self) -> None:
        """Take note of a call that was answered."""
        if self.failures:
            self.failures = self.outages = 0
            self.out = False

    def fail(self, *, silent: bool = False) -> bool:
        """Take note of a call that was not answered, or only by an error of the server.

        Args:
            silent: Whether there was no sign of life at all for the longest time that a call may take.

        Returns:
            Whether the backend is left out from now on.
        """
        self.failures = max(self.failures + 1, _FAILURES if silent else 0)
        if self.out or self.failures < _FAILURES:
            return False
        self.out = True
        self.outages += 1
        return True

    def give_trial(self) -> None:
        """Let calls come again; the first failure ends that."""
        self.out = False
        self.failures = _FAILURES - 1


class Prober:
    """Asks backends that are left out whether they are back.

    Args:
        is_alive: Asks a backend.
        is_served: Whether a backend is still in the list.
        sleep: Waits for some seconds.
        draw: Returns a random number in [0, 1).
    """

    def __init__(
        self,
        is_alive: Callable[[Backend], Awaitable[bool]],
        is_served: Callable[[Backend], bool],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._is_alive = is_alive
        self._is_served = is_served
        self._sleep = sleep
        self._draw = draw
        self._watched: dict[asyncio.Task[None], Backend] = {}

    def watch(self, backend: Backend) -> None:
        """Ask a backend, less and less often, until it is back or is not served any more."""
        task = asyncio.create_task(self._watch(backend), name="agl-gateway-probe")
        self._watched[task] = backend
        task.add_done_callback(self._watched.pop)

    async def close(self) -> None:
        """Stop asking; whoever serves the backends next finds out anew how they are."""
        watched = dict(self._watched)
        for task, backend in watched.items():
            task.cancel()
            backend.health.give_trial()
        if watched:
            await asyncio.wait(watched)

    async def _watch(self, backend: Backend) -> None:
        health = backend.health
        logger.warning("%s does not answer: calls go elsewhere, if they can", backend.name)
        while health.out and self._is_served(backend):
            await self._sleep(self._seconds(health.outages))
            if not health.out:
                break
            if await self._is_alive(backend):
                health.give_trial()
            else:
                health.outages += 1
        if not health.out:
            logger.warning("%s answers again", backend.name)

    def _seconds(self, outages: int) -> float:
        # Half of it by chance, so that gateways do not ask in step.
        longest = min(_FIRST_SECONDS * 2.0 ** min(outages - 1, 16), _LONGEST_SECONDS)
        return longest * (0.5 + self._draw() / 2)
