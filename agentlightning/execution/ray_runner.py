"""A runner as a Ray actor, from its own side."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
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
        path: Where the program finds its modules, which the runner's machine may have in the same place.
    """

    client: RayRunClient
    number: int
    log_level: int | None
    path: tuple[str, ...]


class RayRunner:
    """Runs one runner in a Ray actor. It has no coroutines, so that Ray calls each method in a thread of its own.

    Args:
        assignment: What to do.
    """

    def __init__(self, assignment: RayAssignment) -> None:
        if assignment.log_level is not None:
            setup_logging(assignment.log_level)
        sys.path.extend(folder for folder in assignment.path if folder not in sys.path)
        self._event = ThreadingEvent()
        self._pickled = b""
        self._work = Cancellable(lambda: _run(self._pickled, assignment, self._event))
        self._turn = threading.Lock()  # held while the runner runs
        self._ended = False
        self._failure: Failure | None = None

    def ready(self) -> None:
        """Return at once: the actor is there."""

    def run(self, pickled: bytes) -> Failure | None:
        """Run a runner to its end; returns what it failed with.

        A second call, as after a break of the network, waits for the same end.

        Args:
            pickled: The runner's bundle.
        """
        with self._turn:
            if not self._ended:
                self._pickled = pickled
                self._failure = _failure_of(self._work)
                self._ended = True
            return self._failure

    def tell(self, order: Order) -> None:
        """Do what the strategy says."""
        self._event.set()
        if order is Order.CANCEL:
            self._work.cancel()


def _failure_of(work: Cancellable) -> Failure | None:
    try:
        run_in_this_thread(work)
    except asyncio.CancelledError:
        return None  # it was told so
    except BaseException as error:  # noqa: BLE001  # raised again by the strategy
        return Failure.of(error)
    return None


async def _run(pickled: bytes, assignment: RayAssignment, event: ThreadingEvent) -> None:
    work = pickle.loads(pickled)
    store = NamingStore(assignment.client, assignment.number)
    try:
        await work(store, assignment.number, event)
    finally:
        await store.close()
