"""An agent that books rooms with a tool, a model that judges it, and APO, which improves its prompt."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

import agentlightning as agl

sys.path.append(str(Path(__file__).parent))
from bookings import REQUESTS, TOOL, Request, free_rooms

PROMPT = "Find a room for this request: {request}"
JUDGE = """\
A booking agent was asked: {words}
Right answers are: {right}. If there is none, it should say that nothing is free.
It answered: {answer}
How good is that, from 0 to 10? A right room counts most; one sentence is enough. Answer with the number alone."""


@agl.rollout
async def book(task: Request, prompt_template: agl.PromptTemplate) -> float:
    """Let the model look for rooms with its tool, and let another call judge what it says in the end."""
    messages: list[Any] = [{"role": "user", "content": prompt_template.format(request=task["words"])}]
    async with AsyncOpenAI() as client:
        answer = ""
        for _ in range(4):
            reply = await client.chat.completions.create(
                model=os.environ["OPENAI_MODEL"], messages=messages, tools=[TOOL]
            )
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls or []:
                if call.type == "function":
                    found = free_rooms(**json.loads(call.function.arguments))
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(found)})
            if not message.tool_calls:
                answer = message.content or ""
                break
        return await judge(client, task, answer)


async def judge(client: AsyncOpenAI, task: Request, answer: str) -> float:
    """Ask a model how good the answer is; what it says becomes a reward between 0 and 1."""
    words = JUDGE.format(words=task["words"], right=", ".join(task["right"]) or "none", answer=answer)
    model = os.environ.get("JUDGE_MODEL", os.environ["OPENAI_MODEL"])
    reply = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": words}])
    number = re.search(r"\d+", reply.choices[0].message.content or "")
    return min(int(number[0]), 10) / 10 if number else 0.0


def trainer(algorithm: agl.Algorithm, **settings: Any) -> agl.Trainer:
    """Return what both ways share; `settings` are more of the trainer's arguments."""
    prompt = agl.PromptTemplate(template=PROMPT, engine="f-string")
    return agl.Trainer(
        algorithm=algorithm,
        n_runners=8,
        initial_resources={"prompt_template": prompt},
        adapter=agl.TraceToMessages(),
        **settings,
    )


def baseline(**settings: Any) -> agl.TrainingResult:
    """See how good the prompt is as it stands."""
    return trainer(agl.Baseline(), **settings).fit(book, REQUESTS)


def apo(**settings: Any) -> agl.PromptTemplate:
    """Improve the prompt: on one half of the requests, measured with the other."""
    model = os.environ.get("OPTIMISER_MODEL", os.environ["OPENAI_MODEL"])
    algorithm = agl.APO[Request](
        AsyncOpenAI(),
        gradient_model=model,
        apply_edit_model=model,
        beam_width=2,
        branch_factor=2,
        beam_rounds=2,
        gradient_batch_size=4,
        val_batch_size=4,
    )
    trainer(algorithm, **settings).fit(book, REQUESTS[::2], val_dataset=REQUESTS[1::2])
    return algorithm.get_best_prompt()


if __name__ == "__main__":
    if sys.argv[1:] == ["baseline"]:
        baseline(on_metrics=print)
    elif sys.argv[1:] == ["apo"]:
        print(apo(on_metrics=print).template)
    else:
        sys.exit(f"usage: python {sys.argv[0]} baseline|apo")
