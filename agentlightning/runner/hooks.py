"""Hooks around one rollout."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from agentlightning.types import AttemptedRollout, Hook

if TYPE_CHECKING:
    from agentlightning.litagent import LitAgent
    from agentlightning.runner.base import Runner

logger = logging.getLogger(__name__)

END_DEADLINE: Final = 60.0
"""Seconds that one hook at the end of a trace or a rollout may take; those at the start end with the attempt."""


class Hooks:
    """Calls the hooks of one rollout, one after the other.

    Hooks observe: their errors are told and change nothing.
    """

    def __init__(
        self, hooks: Sequence[Hook], agent: LitAgent[Any], runner: Runner[Any], rollout: AttemptedRollout
    ) -> None:
        self._hooks = hooks
        self._details: dict[str, Any] = {"agent": agent, "runner": runner, "rollout": rollout}

    def __bool__(self) -> bool:
        return bool(self._hooks)

    async def call(self, name: str, **details: Any) -> None:
        """Call the method of this name of each."""
        deadline = END_DEADLINE if name.endswith("_end") else None
        for hook in self._hooks:
            try:
                async with asyncio.timeout(deadline):
                    await getattr(hook, name)(**self._details, **details)
            except Exception:
                logger.exception("%s of %s failed", name, type(hook).__name__)
