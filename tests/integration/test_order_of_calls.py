"""The gateway and the tracer number their spans apart from each other, and in the order of what they tell of."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning import semconv
from agentlightning.doctor.scripted_model import ScriptedModel


@agl.rollout
async def rewarding(task: int, llm: agl.LLM) -> None:
    async with AsyncOpenAI(base_url=llm.endpoint, api_key="unused") as client:
        for turn in range(5):
            agl.emit_reward(turn)
            messages: list[Any] = [{"role": "user", "content": f"{task} {turn}"}]
            await client.chat.completions.create(model=llm.model, messages=messages)


async def test_what_an_agent_does_between_calls_stands_between_them() -> None:
    store = agl.InMemoryLightningStore()
    runner = agl.LitAgentRunner[int](agl.OtelTracer(instrument=None))
    with ScriptedModel() as model, runner.run_context(agent=rewarding, store=store):
        proxy = agl.LLMProxy(model_list=model.model_list, store=store)
        await proxy.start()
        try:
            in_order = 0
            for task in range(5):
                rollout = await runner.step(task, resources={"llm": proxy.as_resource()})
                spans = await store.query_spans(rollout.rollout_id, sort_by="sequence_id")
                names = [span.name for span in spans]
                pairs = zip(names[::2], names[1::2], strict=True)
                in_order += sum(pair == (semconv.AGL_ANNOTATION, semconv.AGL_LLM_CALL) for pair in pairs)
            # This model answers within a millisecond, so that a machine that stalls may still let a call overtake.
            assert in_order >= 20
        finally:
            await proxy.stop()
