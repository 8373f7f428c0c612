"""APO in a process that is killed: `python apo_process.py FOLDER LOG ROLLOUTS [--resume]`.

After so many rollouts, the next ones never end.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import prompt_landscape as landscape

import agentlightning as agl


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
    folder, log, rollouts = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    where = {"resume": folder} if "--resume" in sys.argv else {"run_dir": folder}
    agent = make_agent(log.with_suffix(".rollouts"), rollouts)
    landscape.train(landscape.Optimiser(log=log), [], agent=agent, **where)
