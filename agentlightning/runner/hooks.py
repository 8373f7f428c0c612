"""Hooks around one rollout."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

from agentlightning.runner.giving_up import ended_or_given_up
from agentlightning.types import AttemptedRollout, Hook

if TYPE_CHECKING:
    from agentlightning.litagent import LitAgent
    from agentlightning.runner.base import Runner

logger = logging.getLogger(__name__)

END_DEADLINE: Final = 60.0
"""Seconds that one hook at the end of a trace or a rollout may take; those at the start end with the attempt."""


class Hooks:
    """Calls the hooks of one rollout, one after the other.

    Hooks observe: their errors are told and change nothing. One that goes on when it is cancelled is given up.

    Args:
        hooks: The hooks.
        agent: Who runs, for the hooks to see.
        runner: Who runs it, likewise.
        rollout: What it runs, likewise.
        grace: Seconds that a cancelled hook gets to end.
    """

    def __init__(
        self,
        hooks: Sequence[Hook],
        agent: LitAgent[Any],
        runner: Runner[Any],
        rollout: AttemptedRollout,
        grace: float,
    ) -> None:
        self._hooks = hooks
        self._grace = grace
        self._details: dict[str, Any] = {"agent": agent, "runner": runner, "rollout": rollout}

    def __bool__(self) -> bool:
        return bool(self._hooks)

    async def call(self, name: str, **details: Any) -> None:
        """Call the method of this name of each."""
        task = asyncio.current_task()
        assert task is not None
        for hook in self._hooks:
            cancellations, what = task.cancelling(), f"{name} of {type(hook).__name__}"
            try:
                await self._call(getattr(hook, name), what, END_DEADLINE if name.endswith("_end") else None, details)
            except Exception:
                logger.exception("%s failed", what)
            except asyncio.CancelledError:
                if task.cancelling() > cancellations:
                    raise
                logger.exception("%s failed", what)  # the cancellation is of the hook's own making

    async def _call(self, method: Callable[..., Any], what: str, deadline: float | None, details: Any) -> None:
        async def call() -> Context:
            await method(**self._details, **details)
            return copy_context()

        async with asyncio.timeout(deadline):
            context: Context = await ended_or_given_up(call(), self._grace, what)
        for variable, value in context.items():  # what a hook sets, agents see, as if the hook had been in this task
            if variable.get(None) is not value:
                variable.set(value)
