"""What the laws are written with: the mark, small steps, and patience."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import ModuleType
from typing import Any, Final, TypeAlias, TypeVar

from agentlightning.errors import AgentLightningError
from agentlightning.store.base import LightningStore
from agentlightning.types import Attempt, AttemptedRollout, Rollout, RolloutConfig, Span

T = TypeVar("T")
Law: TypeAlias = Callable[[LightningStore], Coroutine[Any, Any, None]]

PATIENCE: Final = 10.0
"""Seconds after which something that should have happened counts as lost."""

_MARK: Final = "__agl_law__"


def law(check: Law) -> Law:
    """Add a function to the suite."""
    setattr(check, _MARK, True)
    return check


def laws_of(module: ModuleType) -> list[Law]:
    """Return the laws that a module states, in order."""
    return [member for member in vars(module).values() if getattr(member, _MARK, False)]


async def refused(error: type[AgentLightningError | TypeError], awaitable: Awaitable[object]) -> str:
    """Require that an operation is refused with this error; returns its message."""
    try:
        await awaitable
    except error as refusal:
        return str(refusal)
    raise AssertionError(f"nothing raised {error.__name__}")


async def soon(awaitable: Awaitable[T]) -> T:
    """Require that something ends within `PATIENCE`."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def running(store: LightningStore, worker_id: str | None = None, **config: Any) -> AttemptedRollout:
    """Return a rollout whose first attempt is claimed."""
    await store.enqueue_rollout({"task": 1}, config=RolloutConfig(**config))
    claim = await store.dequeue_rollout(worker_id)
    assert claim is not None
    return claim


def span_of(claim: AttemptedRollout, sequence_id: int = 0, name: str = "step", **values: Any) -> Span:
    """Return a new span of an attempt."""
    return Span.from_attributes(
        attributes={"n": sequence_id},
        rollout_id=claim.rollout_id,
        attempt_id=claim.attempt.attempt_id,
        sequence_id=sequence_id,
        name=name,
        **values,
    )


async def rollout_of(store: LightningStore, rollout_id: str) -> Rollout | AttemptedRollout:
    """Return a rollout that must exist."""
    rollout = await store.get_rollout_by_id(rollout_id)
    assert rollout is not None
    return rollout


async def attempt_of(store: LightningStore, claim: AttemptedRollout) -> Attempt:
    """Return a claim's attempt as the store has it now."""
    attempts = {attempt.attempt_id: attempt for attempt in await store.query_attempts(claim.rollout_id)}
    return attempts[claim.attempt.attempt_id]
