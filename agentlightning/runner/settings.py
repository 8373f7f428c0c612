"""What a runner's attempts have in common."""

from __future__ import annotations

from dataclasses import dataclass

from agentlightning.runner.children import Children


@dataclass(frozen=True, slots=True)
class AttemptSettings:
    """How agents are run.

    Attributes:
        cancel_grace: Seconds that a cancelled agent gets to end.
        max_outage: Seconds for which a store that is away is asked again.
        children: Where agents run in processes of their own; None runs them in this one.
    """

    cancel_grace: float
    max_outage: float
    children: Children | None = None
