"""How an attempt ended, written to the store."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from agentlightning.errors import InvalidValue, LeaseLost, TooLarge
from agentlightning.runner.cancel import uninterrupted
from agentlightning.runner.failure import describe_failure
from agentlightning.store.retry import CALL_TIMEOUT, persistently
from agentlightning.types import Attempt, AttemptedRollout, NamedResources, Span

if TYPE_CHECKING:
    from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)


class Verdict:
    """Writes the status of one attempt; the store refuses it once the attempt is over there.

    Args:
        store: The store.
        rollout: The rollout with its attempt.
        patience: Seconds for which a store that is away is asked again.

    Attributes:
        missing_calls: Why the store may lack model calls of the attempt; stands in the attempt's metadata.
    """

    def __init__(self, store: LightningStore, rollout: AttemptedRollout, patience: float) -> None:
        self._store = store
        self._rollout = rollout
        self._patience = patience
        self.missing_calls: list[str] = []

    async def succeeded(self, spans: Sequence[Span] = ()) -> None:
        """Write that it succeeded; not shielded, as the store skips a write whose caller is cancelled before its turn.

        Args:
            spans: The attempt's last, written with it.

        Raises:
            LeaseLost: The attempt was over in the store.
            StoreError: The store did not take it.
        """
        changes: dict[str, Any] = {"metadata": self._metadata()} if self.missing_calls else {}
        if spans:
            await self._call(self._store.finish_attempt, status="succeeded", spans=spans, **changes)
        else:
            await self._update(status="succeeded", **changes)

    async def failed(
        self, failure: BaseException, status: Literal["failed", "timeout"], resources: NamedResources
    ) -> None:
        """Write that it failed and why, also while the caller is being cancelled; what cannot be written is logged."""
        try:
            await uninterrupted(self._explain(failure, status, resources), self._patience + CALL_TIMEOUT)
        except LeaseLost as error:
            logger.warning("The attempt of rollout %s had ended already: %s", self._rollout.rollout_id, error)
        except Exception:
            # The caller must see why the agent failed; that the store did not hear of it is second.
            logger.exception("The failure of rollout %s was not written", self._rollout.rollout_id)

    async def _explain(self, failure: BaseException, status: str, resources: NamedResources) -> None:
        known = self._metadata()
        try:
            await self._update(status=status, metadata={**known, "error": describe_failure(failure, resources)})
        except (InvalidValue, TooLarge) as refusal:
            logger.warning("The failure of rollout %s is written without words: %s", self._rollout.rollout_id, refusal)
            await self._update(status=status, metadata={**known, "error": {"type": type(failure).__name__}})

    def _metadata(self) -> dict[str, Any]:
        known = self._rollout.attempt.metadata or {}
        return {**known, "missing_calls": self.missing_calls} if self.missing_calls else known

    async def _update(self, **changes: Any) -> None:
        await self._call(self._store.update_attempt, **changes)

    async def _call(self, write: Callable[..., Awaitable[Attempt]], **changes: Any) -> None:
        rollout_id, attempt_id = self._rollout.rollout_id, self._rollout.attempt.attempt_id
        await persistently(
            lambda: write(rollout_id, attempt_id, **changes), what="write a status", patience=self._patience
        )
