"""The parts of a run that live in processes of their own, and what such a process and the strategy tell each other."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from agentlightning._internal.aio import wait_for_flag
from agentlightning._internal.heap import begin_collecting
from agentlightning.execution.base import serving
from agentlightning.store.threaded import LightningStoreThreaded

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store import LightningStore
    from agentlightning.store.operations import Operation


CLAIMS: Final = frozenset({"dequeue_many_rollouts", "start_rollout", "start_attempt"})
"""The operations of a store that give a worker something to do."""


class Order(Enum):
    """What a strategy tells a process."""

    STOP = auto()
    """Set the event: end what is in hand, and begin nothing."""
    CANCEL = auto()
    """Cancel the work; once more to end a wait of its clean-up."""
    LEAVE = auto()
    """Nobody needs what the process serves any more."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The process is about to claim work under this name."""

    worker: str


@dataclass(frozen=True, slots=True)
class Done:
    """The work is done; a `Failure` says that it is not."""


Word: TypeAlias = Claims | Done
Tell: TypeAlias = Callable[[Word], None]


@dataclass(frozen=True, slots=True)
class RunnerPart:
    """A runner.

    Attributes:
        work: Its bundle, pickled.
        store: Its store, pickled.
        number: Which runner it is.
    """

    work: bytes
    store: bytes
    number: int

    async def run(self, event: ExecutionEvent, leave: ExecutionEvent, tell: Tell) -> None:
        """Run it to its end."""
        work = pickle.loads(self.work)
        store = WatchedStore(pickle.loads(self.store), tell)
        begin_collecting()
        try:
            await work(store, self.number, event)
        finally:
            await store.close()
        tell(Done())


@dataclass(frozen=True, slots=True)
class AlgorithmPart:
    """The algorithm.

    Attributes:
        work: Its bundle, pickled.
        store: Its store, pickled.
    """

    work: bytes
    store: bytes

    async def run(self, event: ExecutionEvent, leave: ExecutionEvent, tell: Tell) -> None:
        """Run it to its end, and serve what runners need until `leave` is set."""
        work = pickle.loads(self.work)
        store: LightningStore = pickle.loads(self.store)
        begin_collecting()
        try:
            with serving(work, store):
                await work(store, event)
                tell(Done())
                await wait_for_flag(leave)
        finally:
            await store.close()


Part: TypeAlias = RunnerPart | AlgorithmPart


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process is to do; the first message to it.

    Attributes:
        part: Its part of the run.
        log_level: From which level on it logs; None where the program shows no logs.
    """

    part: Part
    log_level: int | None


class WatchedStore(LightningStoreThreaded):
    """Tells the strategy under which names its process claims work, so that it can be released if the process dies."""

    def __init__(self, store: LightningStore, tell: Tell) -> None:
        super().__init__(store)
        self._tell = tell
        self._told: set[str] = set()

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Call the inner store."""
        worker = arguments.get("worker_id") if operation.name in CLAIMS else None
        if isinstance(worker, str) and worker not in self._told:
            self._told.add(worker)
            self._tell(Claims(worker))
        return await super().call(operation, arguments)
