"""How long an attempt may be silent before its runner counts as lost."""

from __future__ import annotations

import sys
from typing import Any, Final

from agentlightning.store import LightningStore, LightningStoreThreaded
from agentlightning.store.operations import Operation
from agentlightning.types import EnqueueRolloutRequest, RolloutConfig

SECONDS: Final = 60.0
"""What a trainer says of runners that it supervises, unless the program does."""


def being_debugged() -> bool:
    """Whether a debugger may hold the program, which then is silent for as long as somebody looks."""
    return sys.gettrace() is not None or "pydevd" in sys.modules


class SilenceLimit(LightningStoreThreaded):
    """Enqueues rollouts with a limit on the silence of their attempts, where none is given.

    Args:
        store: The store.
        seconds: The limit.
    """

    def __init__(self, store: LightningStore, seconds: float) -> None:
        super().__init__(store)
        self._seconds = seconds

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Call the inner store."""
        if operation.name == "enqueue_many_rollouts":
            arguments = {**arguments, "rollouts": [self._limited(request) for request in arguments["rollouts"]]}
        return await super().call(operation, arguments)

    def _limited(self, request: EnqueueRolloutRequest) -> EnqueueRolloutRequest:
        config = request.config or RolloutConfig()
        if "unresponsive_seconds" in config.model_fields_set:
            return request
        limited = config.model_copy(update={"unresponsive_seconds": self._seconds})
        return request.model_copy(update={"config": limited})
