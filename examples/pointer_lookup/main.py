"""An agent that answers a question by looking things up, and its training.

The agent is an ordinary program around the OpenAI client: it knows nothing of training. What is called is whatever
the resource `llm` points to.
"""

from __future__ import annotations

import json
import ssl
from typing import Any

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

import agentlightning as agl
from agentlightning.demo.world import LOOKUP_TOOL, Task, lookup, solution, train_tasks, val_tasks

MAX_TURNS = 5
MAX_TOKENS = 28
TLS = ssl.create_default_context()  # a client makes its own otherwise, which takes 20 ms each time


@agl.rollout
async def pointer_lookup(task: Task, llm: agl.LLM) -> float:
    """Ask the model, run the lookups it calls for, and reward the right last answer."""
    messages: list[Any] = [{"role": "user", "content": task["question"]}]
    async with AsyncOpenAI(
        base_url=llm.endpoint,
        api_key=llm.api_key or "unused",
        http_client=DefaultAsyncHttpxClient(verify=TLS, trust_env=False),
    ) as client:
        for _ in range(MAX_TURNS):
            reply = await client.chat.completions.create(
                model=llm.model,
                messages=messages,
                tools=[LOOKUP_TOOL],
                **{"max_tokens": MAX_TOKENS, **llm.sampling_parameters},
            )
            message = reply.choices[0].message
            if not message.tool_calls:
                return float(message.content == solution(task))
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls:
                try:
                    key = json.loads(call.function.arguments).get("key", "")
                except ValueError:
                    return 0.0  # the model wrote no JSON
                messages.append({"role": "tool", "tool_call_id": call.id, "content": lookup(task, key)})
    return 0.0


if __name__ == "__main__":
    import torch

    from agentlightning.demo.policy import CHECKPOINT

    torch.set_num_threads(1)  # the model is tiny: a second thread costs more than it brings
    algorithm = agl.GRPO(model=CHECKPOINT, steps=50)
    trainer = agl.Trainer(algorithm=algorithm, n_runners=8, run_dir="runs/pointer_lookup", on_metrics=print)
    trainer.fit(pointer_lookup, train_tasks(), val_dataset=val_tasks())
