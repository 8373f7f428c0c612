"""A model, an agent and a client that depend on the prompt in a known way: the best prompt has all four rules."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import agentlightning as agl

RULES = ("Think step by step.", "Check the units.", "Name the source.", "Answer with one number.")
SEED = agl.PromptTemplate(template="Solve {task}.", engine="f-string")
TRAIN = [f"task {number} of kind {number % 4}" for number in range(8)]
VAL = [f"question {number} of kind {number % 4}" for number in range(24)]

_FAILED = re.compile(r'reward="0\.0">\nTask: \w+ \d+ of kind (\d)')
_MISSING = re.compile(r"The rule is missing: (.*)")
_PROMPT = re.compile(r"<prompt>\n(.*?)\n</prompt>", re.DOTALL)


def solved(prompt: str, task: str) -> bool:
    """A task is solved if the prompt has the rule of its kind."""
    return RULES[int(task[-1])] in prompt


def make_agent(ran: list[tuple[str, str]], seconds: float = 0.0) -> agl.LitAgent[Any]:
    """Return the agent, which notes each prompt and task that it was run with."""

    @agl.rollout
    async def agent(task: str, prompt_template: agl.PromptTemplate) -> float:
        prompt = prompt_template.format(task=task)
        await asyncio.sleep(seconds)
        ran.append((prompt_template.template, task))
        return float(solved(prompt, task))

    return agent


class Optimiser:
    """A client of OpenAI's shape behind which a critic names a rule that a failed run lacks, and an editor adds it.

    Args:
        seconds: How long an answer takes.
        spoil: Returns what happens to a call instead, by its number: an error to raise or a text to answer; or None.
        log: A file to which every answer is noted before it is given.
    """

    def __init__(
        self,
        seconds: float = 0.0,
        spoil: Callable[[int, str], Exception | str | None] = lambda number, text: None,
        log: Path | None = None,
    ) -> None:
        self.asked: list[str] = []
        self.answered: Counter[str] = Counter()
        self.chat = SimpleNamespace(completions=self)
        self._seconds = seconds
        self._spoil = spoil
        self._log = log

    async def create(self, *, model: str, messages: list[dict[str, str]], temperature: float) -> Any:
        said = json.dumps([model, messages])
        self.asked.append(said)
        number = len(self.asked)
        await asyncio.sleep(self._seconds)
        spoiled = self._spoil(number, messages[-1]["content"])
        if isinstance(spoiled, Exception):
            raise spoiled
        answer = spoiled if spoiled is not None else respond(messages[0]["content"])
        self.answered[said] += 1
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(said + "\n")
        choice = SimpleNamespace(message=SimpleNamespace(content=answer), finish_reason="stop")
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(prompt_tokens=100, completion_tokens=10))


def respond(content: str) -> str:
    """Answer as critic or editor."""
    (prompt,) = _PROMPT.findall(content)
    missing = _MISSING.search(content)
    if missing is not None:
        return f"{prompt} {missing[1]}"
    failed = _FAILED.findall(content)
    return (
        f"The rule is missing: {RULES[int(failed[0])]}" if failed else "Nothing is wrong. The rule is missing: Smile."
    )


def train(
    optimiser: Any,
    ran: list[tuple[str, str]],
    *,
    run_dir: Path | None = None,
    resume: Path | None = None,
    resources: agl.NamedResources | None = None,
    agent: agl.LitAgent[Any] | None = None,
    val: list[str] = VAL,
    n_runners: int = 8,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    **settings: Any,
) -> tuple[agl.APO[str], agl.TrainingResult]:
    """Run APO; returns it and how the run ended."""
    arguments: dict[str, Any] = {"beam_rounds": 4, "beam_width": 2, "branch_factor": 2, "val_batch_size": 8} | settings
    algorithm = agl.APO[str](optimiser, **arguments)
    algorithm._sleep = sleep  # pyright: ignore[reportPrivateUsage]  # no test waits for a model
    trainer = agl.Trainer(
        algorithm=algorithm,
        n_runners=n_runners,
        runner={"type": "litagent", "heartbeat_interval": 0.2},  # hears soon that a rollout was cancelled
        initial_resources={"prompt_template": SEED} if resources is None else resources,
        adapter=agl.TraceToMessages(),
        run_dir=run_dir,
    )
    try:
        result = trainer.fit(agent or make_agent(ran), TRAIN, val_dataset=val, resume=resume)
    finally:
        asyncio.run(trainer.store.close())
    return algorithm, result
