"""The store of a run: its server also tells runners on other machines when the run ends."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from agentlightning._internal.aio import wait_for_flag
from agentlightning.execution.events import ThreadingEvent
from agentlightning.serving import url_of
from agentlightning.store import LightningStore, LightningStoreClient, LightningStoreServer, LightningStoreThreaded
from agentlightning.store.operations import operation

_BETWEEN_POLLS: Final = 2.0
"""Seconds within which a member that lives asks again whether the run has ended."""


class RunInterface(LightningStore):
    """A store that knows of a run."""

    @operation("POST", "/run/members")
    async def join_run(self, runners: int) -> int:
        """Take part in the run with so many runners; returns the first of their numbers, which nobody else has."""
        raise NotImplementedError

    @operation("POST", "/run/members/{member}", mutates=False)
    async def watch_run(self, member: str, *, wait: float = 0.0) -> bool:
        """Return whether the run has ended, once it has or `wait` seconds are over.

        Args:
            member: The number that `join_run` returned, as text.
            wait: Seconds to wait. The store wakes the caller; it does not poll.
        """
        raise NotImplementedError

    @operation("POST", "/run/members/{member}/leave", repeatable=True)
    async def leave_run(self, member: str) -> None:
        """Take part no more: the run need not wait for these runners."""
        raise NotImplementedError


class Members:
    """Who takes part in a run from elsewhere, for all threads.

    Args:
        runners: How many runners the run has of its own.
    """

    def __init__(self, runners: int) -> None:
        self._changed = threading.Condition()  # guards the next two; never held across an await
        self._next = runners
        self._alive: dict[str, float] = {}  # until when each counts as alive

    def add(self, runners: int) -> int:
        """Add a member with so many runners; returns the first of their numbers."""
        with self._changed:
            first = self._next
            self._next += max(runners, 1)
        self.see(str(first), _BETWEEN_POLLS)
        return first

    def see(self, member: str, seconds: float) -> None:
        """Take a member to be alive for so long."""
        with self._changed:
            self._alive[member] = time.monotonic() + seconds
            self._changed.notify_all()

    def remove(self, member: str) -> None:
        """Forget a member."""
        with self._changed:
            self._alive.pop(member, None)
            self._changed.notify_all()

    def wait_until_gone(self, timeout: float) -> int:
        """Block until no member is alive, for at most `timeout` seconds; returns how many are."""
        give_up = time.monotonic() + timeout
        with self._changed:
            while True:
                now = time.monotonic()
                alive = [until for until in self._alive.values() if until > now]
                if not alive or now >= give_up:
                    return len(alive)
                self._changed.wait(min(*alive, give_up) - now)


class RunStore(LightningStoreThreaded, RunInterface):
    """A store, and the run that ends when the event is set.

    Args:
        store: The store.
        event: The run's.
        runners: How many runners the run has of its own.

    Attributes:
        members: Who takes part from elsewhere.
    """

    def __init__(self, store: LightningStore, event: ThreadingEvent, runners: int) -> None:
        super().__init__(store)
        self.members = Members(runners)
        self._event = event

    async def join_run(self, runners: int) -> int:
        """See `RunInterface.join_run`."""
        return self.members.add(runners)

    async def watch_run(self, member: str, *, wait: float = 0.0) -> bool:
        """See `RunInterface.watch_run`."""
        self.members.see(member, float("inf"))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await wait_for_flag(self._event)
        except asyncio.CancelledError:
            self.members.remove(member)  # its process is gone
            raise
        if not self._event.is_set():
            self.members.see(member, _BETWEEN_POLLS)
        return self._event.is_set()

    async def leave_run(self, member: str) -> None:
        """See `RunInterface.leave_run`."""
        self.members.remove(member)


class RunClient(LightningStoreClient, RunInterface):
    """The store of a run that another process serves."""


class RunServer(LightningStoreServer):
    """Serves the store of a run.

    Args:
        store: The store.
        host: Address to bind.
        port: Port to bind.
        token: What callers must present.
        advertise_host: The name under which other machines find it; None for the address that it binds.

    Attributes:
        members: Who takes part in the run from elsewhere.
    """

    def __init__(
        self, store: RunStore, host: str | None, port: int, token: str | None, advertise_host: str | None
    ) -> None:
        super().__init__(store, host, port, token=token)
        self.members: Final = store.members
        self._advertise_host = advertise_host

    @property
    def endpoint(self) -> str:
        """Where other machines find the store."""
        if self._advertise_host is None:
            return self.local_endpoint
        return url_of(self._advertise_host, urlsplit(self.local_endpoint).port or 0)

    @property
    def local_endpoint(self) -> str:
        """Where this machine finds the store."""
        return super().endpoint
