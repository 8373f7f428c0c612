"""Wall time of prompt optimisation with APO on a scripted model: one thing after the other, and with many runners.

A task is solved if the prompt has the rule of its kind; a critic names a rule that a failed run lacks.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from types import SimpleNamespace
from typing import Any

import agentlightning as agl

RULES = ("Think step by step.", "Check the units.", "Name the source.", "Answer with one number.")
SEED = agl.PromptTemplate(template="Solve {task}.", engine="f-string")
TRAIN = [f"task {number} of kind {number % 4}" for number in range(16)]
VAL = [f"question {number} of kind {number % 4}" for number in range(32)]
FAILED = re.compile(r'reward="0\.0">\nTask: \w+ \d+ of kind (\d)')


class Model:
    """Critic and editor behind a client that has OpenAI's shape."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = 0
        self.chat = SimpleNamespace(completions=self)

    async def create(self, *, messages: list[dict[str, str]], **options: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        message = SimpleNamespace(content=answer(messages[0]["content"]))
        return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")], usage=None)


def answer(content: str) -> str:
    (prompt,) = re.findall(r"<prompt>\n(.*?)\n</prompt>", content, re.DOTALL)
    missing = re.search(r"Missing: (.*)", content)
    if missing is not None:
        return f"{prompt} {missing[1]}"
    failed = FAILED.findall(content)
    return f"Missing: {RULES[int(failed[0])]}" if failed else "Missing: Smile."


def optimise(runners: int, at_once: int, rollout_seconds: float, call_seconds: float) -> tuple[float, int, int]:
    """Returns the wall time, and how many rollouts and model calls it took."""

    @agl.rollout
    async def agent(task: str, prompt: agl.PromptTemplate) -> float:
        await asyncio.sleep(rollout_seconds)
        return float(RULES[int(task[-1])] in prompt.format(task=task))

    model = Model(call_seconds)
    algorithm = agl.APO(model, beam_rounds=4, max_concurrency=at_once)
    trainer = agl.Trainer(
        algorithm=algorithm, n_runners=runners, initial_resources={"prompt": SEED}, adapter=agl.TraceToMessages()
    )
    began = time.perf_counter()
    result = trainer.fit(agent, TRAIN, val_dataset=VAL)
    seconds = time.perf_counter() - began
    asyncio.run(trainer.store.close())
    assert all(rule in algorithm.get_best_prompt().template for rule in RULES)
    return seconds, sum(result.rollouts.values()), model.calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runners", type=int, default=8)
    parser.add_argument("--rollout", type=float, default=0.05, help="seconds of a rollout")
    parser.add_argument("--call", type=float, default=0.05, help="seconds of a call of the models that write")
    options = parser.parse_args()
    serial = 0.0
    for runners, at_once in ((1, 1), (1, 16), (options.runners, 16)):
        seconds, rollouts, calls = optimise(runners, at_once, options.rollout, options.call)
        serial = serial or seconds
        print(
            f"{runners} runners, {at_once:2d} prompts at a time: {seconds:6.2f} s, {seconds / serial:4.2f} of serial; "
            f"{rollouts} rollouts, {calls} model calls"
        )


if __name__ == "__main__":
    main()
