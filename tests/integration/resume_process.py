"""A program that trains in the folder it is given, or goes on there: `python resume_process.py FOLDER [--resume]`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import openai
import torch

import agentlightning as agl
from agentlightning.demo.policy import CHECKPOINT

STEPS = 4
TASKS = 2
SAMPLES = 4


@agl.rollout
async def agent(task: int, llm: agl.LLM) -> float:
    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": f"What is the value of {task}?"}]
        options: dict[str, Any] = {"max_tokens": 4, **llm.sampling_parameters}
        answer = await client.chat.completions.create(model=llm.model, messages=messages, **options)
    await asyncio.sleep(0.2)  # a tool that takes its time, so that a step is seen half done
    return float(len(answer.choices[0].message.content or "") % 3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, resume = sys.argv[1], "--resume" in sys.argv
    algorithm = agl.GRPO(
        CHECKPOINT, device="cpu", steps=STEPS, batch_size=TASKS, group_size=SAMPLES, checkpoint_every=1
    )
    trainer = agl.Trainer(algorithm=algorithm, run_dir=None if resume else folder)
    trainer.fit(agent, [1, 2, 3], val_dataset=[4, 5], resume=folder if resume else None)
    asyncio.run(trainer.store.close())
