"""What a user may choose about the demo."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path


def _new_folder() -> Path:
    return Path("runs") / datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The demo's options.

    Attributes:
        seed: Order of the tasks and sampling of the answers; with `from_scratch` also the policy.
        steps: Updates of the policy.
        output: The run's folder; it must not hold a run yet.
        from_scratch: Build tokenizer and policy anew instead of loading the shipped ones.
        n_runners: Runners in this process.
        concurrency: Rollouts that each runner runs at a time.
    """

    seed: int = 0
    steps: int = 50
    output: Path = field(default_factory=_new_folder)
    from_scratch: bool = False
    n_runners: int = 8
    concurrency: int = 8
