"""APO in a process that is killed: `python apo_process.py FOLDER LOG CALLS ROLLOUTS [--resume]`.

After so many answers of the models that write, or so many rollouts, the next one never ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import prompt_landscape as landscape

import agentlightning as agl


class Stalling(landscape.Optimiser):
    """Answers so many calls."""

    def __init__(self, log: Path, calls: int) -> None:
        super().__init__(log=log)
        self._calls = calls

    async def create(self, **options: Any) -> Any:
        if len(self.asked) >= self._calls:
            await asyncio.sleep(600)
        return await super().create(**options)


def make_agent(log: Path, rollouts: int) -> agl.LitAgent[Any]:
    ran: list[tuple[str, str]] = []

    @agl.rollout
    async def agent(task: str, prompt_template: agl.PromptTemplate) -> float:
        if len(ran) >= rollouts:
            await asyncio.sleep(600)
        ran.append((prompt_template.template, task))
        with log.open("a") as file:
            file.write("rollout\n")
        return float(landscape.solved(prompt_template.template, task))

    return agent


if __name__ == "__main__":
    folder, log, calls, rollouts = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    where = {"resume": folder} if "--resume" in sys.argv else {"run_dir": folder}
    landscape.train(Stalling(log, calls), [], agent=make_agent(log.with_suffix(".rollouts"), rollouts), **where)
