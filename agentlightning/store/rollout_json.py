"""Rollouts out of the JSON of a store.

They are built, not validated once more: what a store answers was checked when it was written.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator

from agentlightning.store.construct import construct
from agentlightning.types import Attempt, AttemptedRollout, Rollout, RolloutConfig


def rollout_of(values: dict[str, Any]) -> Rollout | AttemptedRollout:
    """Build a rollout from the values of its JSON, and take them over."""
    values["config"] = construct(RolloutConfig, values["config"])
    if "attempt" not in values:
        return construct(Rollout, values)
    values["attempt"] = construct(Attempt, values["attempt"])
    return construct(AttemptedRollout, values)


RolloutOfStore: TypeAlias = Annotated[Any, AfterValidator(rollout_of)]
"""A rollout in the JSON of a store, with its latest attempt if it has one."""
