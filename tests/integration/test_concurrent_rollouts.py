"""What many rollouts on one event loop do to each other: nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import torch
from outcomes import Outcome, run_all

import agentlightning as agl
from agentlightning.algorithm.policy_server import PolicyServer
from agentlightning.demo.policy import load_policy


def test_calls_of_a_finished_rollout_are_all_in_the_store() -> None:
    torch.set_num_threads(1)
    made: Counter[int] = Counter()
    outcomes: list[Outcome] = []

    @agl.rollout
    async def agent(task: int, llm: agl.LLM) -> float:
        messages: list[Any] = [{"role": "user", "content": f"What is the value of {task}?"}]
        async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
            for _ in range(1 + task % 4):
                await client.chat.completions.create(model=llm.model, messages=messages, max_tokens=4)
                made[task] += 1
        return 1.0

    @agl.algo
    async def look(store: agl.LightningStore) -> None:
        async with PolicyServer(*load_policy(), store) as server:
            await server.publish({})
            outcomes.extend(await run_all(store, [agl.EnqueueRolloutRequest(input=task) for task in range(64)]))

    runner = agl.LitAgentRunner[Any](agl.OtelTracer(), max_concurrency=8)
    agl.Trainer(algorithm=look, n_runners=8, runner=runner).fit(agent)
    assert {outcome.status for outcome in outcomes} == {"succeeded"}
    assert [len(outcome.calls) for outcome in outcomes] == [made[task] for task in range(64)]
    assert sum(made.values()) == 160
    assert {call.status.status_code for outcome in outcomes for call in outcome.calls} == {"OK"}


def test_an_agent_that_blocks_the_event_loop_delays_the_others_and_no_more(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []

    @agl.rollout
    async def agent(task: int) -> float:
        await asyncio.sleep(0)
        if task % 10 == 0:
            time.sleep(0.5)  # noqa: ASYNC251  # what a careless agent does
        agl.emit_message(f"task {task}")
        return float(task)

    @agl.algo
    async def look(store: agl.LightningStore) -> None:
        outcomes.extend(await run_all(store, [agl.EnqueueRolloutRequest(input=task) for task in range(30)]))

    path = tmp_path / "store.db"
    beating_often = agl.LitAgentRunner[Any](agl.OtelTracer(), heartbeat_interval=0.1, max_concurrency=4)
    store = agl.SqliteLightningStore(path)
    agl.Trainer(algorithm=look, n_runners=4, store=store, runner=beating_often).fit(agent)
    asyncio.run(store.close())
    assert [outcome.status for outcome in outcomes] == ["succeeded"] * 30
    assert [outcome.reward for outcome in outcomes] == [float(task) for task in range(30)]
    assert asyncio.run(spans_in(path)) == 60


async def spans_in(path: Path) -> int:
    store = agl.SqliteLightningStore(path)
    try:
        return (await store.statistics())["total_spans"]
    finally:
        await store.close()
