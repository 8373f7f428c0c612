"""A runner as a Ray actor, from its own side."""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
from dataclasses import dataclass

from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.loop_thread import Cancellable, run_in_this_thread
from agentlightning.execution.parts import Order
from agentlightning.execution.ray_store import NamingStore, RayRunClient
from agentlightning.logging import setup_logging
from agentlightning.processes.failure import Failure


@dataclass(frozen=True, slots=True)
class RayAssignment:
    """What a runner on a Ray cluster is to do.

    Attributes:
        client: Its store.
        number: Which runner it is.
        log_level: From which level on it logs; None where the program shows no logs.
    """

    client: RayRunClient
    number: int
    log_level: int | None


class RayRunner:
    """Runs one runner in a Ray actor, whose methods are called in threads of their own.

    Args:
        assignment: What to do.
        work: The runner's bundle, pickled.
    """

    def __init__(self, assignment: RayAssignment, work: bytes) -> None:
        if assignment.log_level is not None:
            setup_logging(assignment.log_level)
        self._assignment = assignment
        self._pickled = work
        self._id = uuid.uuid4().hex
        self._event = ThreadingEvent()
        self._work = Cancellable(self._run)
        self._turn = threading.Lock()  # held while the runner runs
        self._ended = False
        self._failure: Failure | None = None

    def id(self) -> str:
        """Return what tells this process from those before and after it."""
        return self._id

    def run(self) -> Failure | None:
        """Run the runner to its end; returns what it failed with.

        A second call, as after a break of the network, waits for the same end.
        """
        with self._turn:
            if not self._ended:
                self._failure = self._outcome()
                self._ended = True
            return self._failure

    def tell(self, order: Order) -> None:
        """Do what the strategy says."""
        self._event.set()
        if order is Order.CANCEL:
            self._work.cancel()

    def _outcome(self) -> Failure | None:
        try:
            run_in_this_thread(self._work)
        except asyncio.CancelledError:
            return None  # it was told so
        except BaseException as error:  # noqa: BLE001  # raised again by the strategy
            return Failure.of(error)
        return None

    async def _run(self) -> None:
        work = pickle.loads(self._pickled)
        store = NamingStore(self._assignment.client, self._assignment.number)
        try:
            await work(store, self._assignment.number, self._event)
        finally:
            await store.close()
