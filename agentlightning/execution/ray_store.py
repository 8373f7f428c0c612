"""The store of a run on a Ray cluster, which knows under which names each runner claims work."""

from __future__ import annotations

import threading
from typing import Any

from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.parts import CLAIMS
from agentlightning.execution.run_store import RunStore
from agentlightning.store import LightningStore, LightningStoreClient, LightningStoreThreaded
from agentlightning.store.operations import Operation, operation


class RayRunInterface(LightningStore):
    """A store that hears from runners what they are called."""

    @operation("POST", "/run/runners/{runner}/names", repeatable=True)
    async def name_runner(self, runner: str, name: str) -> None:
        """Say that a runner is about to claim work under a name.

        Args:
            runner: Its number, as text.
            name: The name.
        """
        raise NotImplementedError


class RayRunStore(RunStore, RayRunInterface):
    """A store, and who claims work in it.

    Args:
        store: The store.
        event: Set when the run ends.
        runners: How many runners the run has.
    """

    def __init__(self, store: LightningStore, event: ThreadingEvent, runners: int) -> None:
        super().__init__(store, event, runners)
        self._lock = threading.Lock()  # guards the names; never held across an await
        self._names: dict[str, set[str]] = {}

    async def name_runner(self, runner: str, name: str) -> None:
        """See `RayRunInterface.name_runner`."""
        with self._lock:
            self._names.setdefault(runner, set()).add(name)

    def names_of(self, runner: int) -> set[str]:
        """Return the names under which a runner, or those before it with its number, may have claimed work."""
        with self._lock:
            return set(self._names.get(str(runner), ()))


class RayRunClient(LightningStoreClient, RayRunInterface):
    """The store of a run on a Ray cluster, from a runner's side."""


class NamingStore(LightningStoreThreaded):
    """Names the runner to the run's process before it claims work, so that its claims can be released if it dies.

    Args:
        client: The store.
        number: Which runner it is.
    """

    def __init__(self, client: RayRunClient, number: int) -> None:
        super().__init__(client)
        self._client = client
        self._number = str(number)
        self._named: set[str] = set()

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Call the inner store."""
        name = arguments.get("worker_id") if operation.name in CLAIMS else None
        if isinstance(name, str) and name not in self._named:
            await self._client.name_runner(self._number, name)
            self._named.add(name)
        return await super().call(operation, arguments)
