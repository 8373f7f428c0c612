"""What a user may choose about the demo."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from agentlightning.errors import ConfigurationError

_FILE: Final = "demo.json"


def new_folder() -> Path:
    """Return a folder named after the present time; it is not created."""
    return Path("runs") / datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The demo's options.

    Attributes:
        output: The run's folder; it must not hold a run yet, unless it goes on.
        resume: Whether the run in the folder goes on.
        seed: Order of the tasks; with `from_scratch` also the policy. Runs with one seed are alike, not equal:
            rollouts run at once.
        steps: Updates of the policy.
        from_scratch: Build tokenizer and policy anew instead of loading the shipped ones.
        strategy: `shm` runs everything in this process, `cs` the runners in processes of their own, `ray` on a
            Ray cluster.
        n_runners: How many runners.
        concurrency: Rollouts that each runner runs at a time.
    """

    output: Path
    resume: bool = False
    seed: int = 0
    steps: int = 40
    from_scratch: bool = False
    strategy: Literal["shm", "cs", "ray"] = "shm"
    n_runners: int = 8
    concurrency: int = 8

    def save(self) -> None:
        """Write them into the run's folder, for whoever goes on with it."""
        chosen = asdict(self)
        del chosen["output"], chosen["resume"]
        (self.output / _FILE).write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")


def saved_options(folder: Path) -> DemoOptions:
    """Return the options of the run in a folder, to go on with it.

    Raises:
        ConfigurationError: The folder holds no run of the demo.
    """
    try:
        chosen = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{folder} holds no run of the demo: there is no {_FILE} in it") from error
    return DemoOptions(output=folder, resume=True, **chosen)
