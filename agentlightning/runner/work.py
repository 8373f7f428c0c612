"""What a strategy runs for each of its runners, in whatever process."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlightning.execution import ExecutionEvent
    from agentlightning.litagent import LitAgent
    from agentlightning.runner.base import Runner
    from agentlightning.store import LightningStore
    from agentlightning.types import Hook


@dataclass
class RunnerWork:
    """Runs an agent on the rollouts of a store.

    It lives apart from what a trainer makes of an algorithm, which a runner's process need not import.

    Attributes:
        runner: Each worker gets a copy of its own.
        agent: What to run.
        hooks: Called around every rollout.
    """

    runner: Runner[Any]
    agent: LitAgent[Any]
    hooks: tuple[Hook, ...]

    async def __call__(self, store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        """Run worker `worker_id` until the event is set or its quota is used up."""
        runner = copy.copy(self.runner)
        runner.init(self.agent, hooks=self.hooks)
        try:
            runner.init_worker(worker_id, store)
            try:
                await runner.iter(event=event)
            finally:
                runner.teardown_worker(worker_id)
        finally:
            runner.teardown()
