"""A scripted agent whose best prompt is known, a scripted reflection model, and a run of GEPA that kills itself."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agentlightning as agl

RULES = ["think step by step", "answer in one word", "use metric units"]
"""The instructions of the best prompt: each task is solved by one of them."""
TASKS = [{"question": f"question {number}", "rule": RULES[number % 3]} for number in range(9)]
SEED = "Answer {question}."

Note = Callable[[str], None]


def make_agent(note: Note = lambda _: None) -> agl.LitAgent[Any]:
    """An agent that says what its prompt lacks; `note` hears of a rollout before and after."""

    @agl.rollout
    async def agent(task: dict[str, str], prompt: agl.PromptTemplate) -> float:
        note("begins")
        good = task["rule"] in prompt.format(question=task["question"])
        if not good:
            agl.emit_message(f"The answer lacks this rule: {task['rule']}.")
        note(json.dumps(["rollout", prompt.template, task["question"]]))
        return float(good)

    return agent


def present_text(question: str) -> str:
    return question.split("```")[1].strip()


def better_text(question: str) -> str:
    """Add the first rule that is said to be lacking."""
    lacking = re.findall(r"lacks this rule: (.*)\.", question)
    return f"{present_text(question)}\nAlso {lacking[0] if lacking else 'be brief'}."


def make_reflection(note: Note = lambda _: None) -> Callable[[str], str]:
    """A reflection model; `note` hears of a call before and after."""

    def reflect(question: str) -> str:
        note("begins")
        answer = f"This is better:\n```\n{better_text(question)}\n```"
        note(json.dumps(["reflection", present_text(question), answer]))
        return answer

    return reflect


def resources() -> dict[str, Any]:
    prompt = agl.PromptTemplate(template=SEED, engine="f-string")
    return {"prompt": prompt, "model": agl.LLM(endpoint="http://model/v1", model="scripted")}


def search(folder: Path | None, note: Note = lambda _: None, *, resume: bool = False, **options: Any) -> agl.GEPA:
    """Search in a folder, or go on there."""
    reflection = options.pop("reflection_lm", None) or make_reflection(note)
    agent, runners = options.pop("agent", None) or make_agent(note), options.pop("n_runners", 1)
    arguments: dict[str, Any] = {"max_metric_calls": 90} | options
    algorithm = agl.GEPA(reflection, **arguments)
    trainer = agl.Trainer(
        algorithm=algorithm,
        n_runners=runners,
        initial_resources=resources(),
        run_dir=None if resume else folder,
    )
    try:
        trainer.fit(agent, TASKS, val_dataset=TASKS[:6], resume=folder if resume else None)
    finally:
        asyncio.run(trainer.store.close())
    return algorithm


def main(folder: Path, kill_at: int, resume: bool) -> None:
    """Search, writing down what was paid for, and die where the piece of work with this number begins."""
    began = 0

    def note(said: str) -> None:
        nonlocal began
        if said == "begins":
            began += 1
            if began == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return
        with (folder.parent / "paid.jsonl").open("a") as file:
            file.write(said + "\n")

    search(folder, note, resume=resume)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume")
