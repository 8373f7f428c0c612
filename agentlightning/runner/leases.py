"""Leases: the attempts that a runner holds, and which of its heartbeats may release what it does not hold."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from agentlightning.runner.stop import LOST, Stop
from agentlightning.store.events import call_in_loop
from agentlightning.types import AttemptedRollout, LeaseRenewal


class Lease:
    """An attempt that the runner holds; made in the event loop of its agent.

    Attributes:
        rollout: The rollout with the attempt.
        since: When it was claimed, by the clock of the loop.
        stop: Ends the agent early, as it does once the store has said that the attempt is no longer the runner's.
    """

    def __init__(self, rollout: AttemptedRollout) -> None:
        self.rollout = rollout
        self.stop = Stop()
        self._loop = asyncio.get_running_loop()
        self.since = self._loop.time()

    @property
    def key(self) -> tuple[str, str]:
        """Rollout id and attempt id."""
        return self.rollout.rollout_id, self.rollout.attempt.attempt_id

    def lose(self) -> None:
        """Tell the agent to stop, from any thread."""
        call_in_loop(self._loop, self.stop.tell, LOST)


class Leases:
    """What a runner holds; its heartbeats may ask from any thread.

    A heartbeat makes the store release whatever was claimed before `as_of` and is not in the list. An attempt whose
    claim is still on its way to the runner is not in the list, so this holds for every list: each claim on its way
    began after the renewal that was answered at `as_of`, hence was made later than that. To that end, a claim remembers
    a renewal that was answered before it began, the oldest claim on its way decides, and a claim is on its way until
    what it brought is held.

    That renewal is the last but one: another runner of this name that claimed before it has signed a heartbeat since,
    of which the last one was told.

    Attributes:
        on_hold: Called for every attempt that a silence would end, as it is held.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], Lease] = {}
        self._renewed: float | None = None
        self._renewed_before: float | None = None
        self.on_hold: Callable[[], object] | None = None
        self._claims: dict[object, float | None] = {}  # on their way, the oldest first: `_renewed_before` as each began

    @contextmanager
    def claiming(self) -> Generator[None]:
        """Mark a claim as being on its way, until the end of the block, in which what it brings must be held."""
        claim = object()
        with self._lock:
            self._claims[claim] = self._renewed_before
        try:
            yield
        finally:
            with self._lock:
                del self._claims[claim]

    def hold(self, rollout: AttemptedRollout) -> Lease:
        """Hold an attempt that was claimed."""
        lease = Lease(rollout)
        with self._lock:
            self._held[lease.key] = lease
        if self.on_hold is not None and rollout.config.unresponsive_seconds is not None:
            self.on_hold()
        return lease

    def drop(self, lease: Lease) -> None:
        """Hold an attempt no longer."""
        with self._lock:
            self._held.pop(lease.key, None)

    def list(self) -> tuple[list[tuple[str, str]], float | None]:
        """Return the ids of what is held, and `as_of`: both for one call of `renew_leases`."""
        with self._lock:
            return list(self._held), next(iter(self._claims.values()), self._renewed_before)

    def shortest_silence(self) -> float | None:
        """Return the smallest `unresponsive_seconds` of what is held; None if silence ends none of it."""
        with self._lock:
            limits = [lease.rollout.config.unresponsive_seconds for lease in self._held.values()]
        return min((limit for limit in limits if limit is not None), default=None)

    def renewed(self, renewal: LeaseRenewal) -> None:
        """Take the store's answer: what it calls lost is lost."""
        with self._lock:
            self._renewed_before, self._renewed = self._renewed, renewal.time
            lost = [lease for lost in renewal.lost if (lease := self._held.get((lost[0], lost[1])))]
        for lease in lost:
            lease.lose()
