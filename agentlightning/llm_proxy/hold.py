"""The gate at which calls wait while somebody changes the weights that would answer them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from agentlightning.errors import CallHeld

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 600.0
"""How long calls are held for an owner that neither resumes nor gives a sign of life."""
PATIENCE_SECONDS: Final = 3600.0
"""How long a call waits at most. Clients give up earlier and try again, but for those that wait forever."""


@dataclass(slots=True)
class _Hold:
    """What one owner asked for: how long its calls wait, and what ends it if the owner dies."""

    patience: float
    lease: float
    expiry: asyncio.TimerHandle


@dataclass(frozen=True, slots=True)
class HoldStatus:
    """What a gateway does with calls now.

    Attributes:
        paused: Whether calls are held.
        in_flight: The calls that backends work on, and streams that are not at their end.
        held: The calls that wait.
        owners: For whom calls are held, and the seconds until that ends without a sign of life.
    """

    paused: bool
    in_flight: int
    held: int
    owners: dict[str, float]


class Gate:
    """Lets calls through, or holds them as long as anybody wants that.

    Attributes:
        loop: The event loop that makes it, where alone it may be used.
        closed: Whether calls are held.
        in_flight: Calls that were let through and have no complete answer yet.
        held: Calls that wait.
        lapsed: How many holds ended because their owner gave no sign of life.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self.in_flight = 0
        self.held = 0
        self.lapsed = 0
        self._holds: dict[str, _Hold] = {}
        self._opened = asyncio.Event()
        self._idle = asyncio.Event()
        self._shut = False

    def status(self) -> HoldStatus:
        """Return what happens to calls now."""
        now = self.loop.time()
        owners = {owner: max(hold.expiry.when() - now, 0.0) for owner, hold in self._holds.items()}
        return HoldStatus(self.closed, self.in_flight, self.held, owners)

    def close(self, owner: str, lease: float, patience: float) -> None:
        """Hold calls from now on, for `lease` seconds unless the owner renews; each at most `patience` seconds."""
        if owner in self._holds:
            self._holds[owner].expiry.cancel()
        self._holds[owner] = _Hold(patience, lease, self._expiry(owner, lease))
        self.closed = True
        self._opened.clear()

    def renew(self, owner: str) -> bool:
        """Let an owner's lease begin anew; False if it has none, or none any more."""
        hold = self._holds.get(owner)
        if hold is not None:
            hold.expiry.cancel()
            hold.expiry = self._expiry(owner, hold.lease)
        return hold is not None

    def open(self, owner: str) -> bool:
        """End an owner's hold; False if it has none, or none any more. Calls go on when no other owner holds them."""
        hold = self._holds.pop(owner, None)
        if hold is not None:
            hold.expiry.cancel()
            self.closed = bool(self._holds)
            if not self.closed:
                self._opened.set()
        return hold is not None

    def shut(self) -> None:
        """Send away whoever waits: the gateway stops."""
        self._shut = True
        for hold in self._holds.values():
            hold.expiry.cancel()
        self._opened.set()

    @property
    def patience(self) -> float:
        """How many seconds a call that comes now is held at most."""
        return max((hold.patience for hold in self._holds.values()), default=0.0)

    async def opens(self, seconds: float) -> bool:
        """Wait until calls may go on; False if that takes longer.

        Raises:
            CallHeld: The gateway stops.
        """
        self.held += 1
        try:
            async with asyncio.timeout(seconds):
                while self.closed:
                    await self._opened.wait()
                    if self._shut:
                        raise CallHeld("the gateway stopped while it held this call; try again")
        except TimeoutError:
            return False
        finally:
            self.held -= 1
        return True

    def enter(self) -> None:
        """Count a call that goes to a backend; not to be awaited between seeing the gate open and this."""
        self.in_flight += 1

    def leave(self) -> None:
        """Count its end."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def drain(self, deadline: float) -> bool:
        """Wait until no call is in flight; False if `deadline` seconds were not enough."""
        try:
            async with asyncio.timeout(deadline):
                while self.in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _expiry(self, owner: str, lease: float) -> asyncio.TimerHandle:
        return self.loop.call_later(lease, self._expire, owner)

    def _expire(self, owner: str) -> None:
        lease = self._holds[owner].lease
        self.lapsed += 1
        self.open(owner)
        logger.warning(
            "%r held model calls and gave no sign of life for %g s: its hold has ended%s",
            owner,
            lease,
            "" if self.closed else ", and calls go on",
        )
