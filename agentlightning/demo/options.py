"""What a user may choose about the demo."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path


def new_folder() -> Path:
    """Return a folder named after the present time; it is not created."""
    return Path("runs") / datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The demo's options.

    Attributes:
        output: The run's folder; it must not hold a run yet.
        seed: Order of the tasks; with `from_scratch` also the policy. Runs with one seed are alike, not equal:
            rollouts run at once.
        steps: Updates of the policy.
        from_scratch: Build tokenizer and policy anew instead of loading the shipped ones.
        n_runners: Runners in this process.
        concurrency: Rollouts that each runner runs at a time.
    """

    output: Path
    seed: int = 0
    steps: int = 40
    from_scratch: bool = False
    n_runners: int = 8
    concurrency: int = 8
