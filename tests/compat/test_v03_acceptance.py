"""What went wrong in v0.3 and must not here, as one check each; docs/compat.md lists them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry import trace as otel

import agentlightning as agl
from agentlightning.tracer import OtelTracer
from agentlightning.types.attributes import make_link_attributes

DEADLINE = 10.0


@pytest.fixture
async def store() -> AsyncIterator[agl.InMemoryLightningStore]:
    store = agl.InMemoryLightningStore()
    yield store
    await store.close()


def make() -> agl.LitAgentRunner[Any]:
    return agl.LitAgentRunner[Any](OtelTracer(), heartbeat_interval=0)


def record_call(question: str, messages: int = 1, failed: bool = False) -> str:
    """A model call as a library would record it; returns its response id."""
    with otel.get_tracer("a library").start_as_current_span("openai.chat.completion") as span:
        for index in range(messages):
            span.set_attribute(f"gen_ai.prompt.{index}.role", "user")
            span.set_attribute(f"gen_ai.prompt.{index}.content", f"{question} {index}")
        span.set_attribute("gen_ai.request.model", "m")
        if failed:
            span.set_status(otel.StatusCode.ERROR, "HTTP 500")
        else:
            span.set_attribute("gen_ai.response.id", f"resp-{question}")
            span.set_attribute("gen_ai.completion.0.role", "assistant")
            span.set_attribute("gen_ai.completion.0.content", question.upper())
    return f"resp-{question}"


async def run(store: agl.InMemoryLightningStore, agent: agl.LitAgent[Any], task: str = "task") -> list[agl.Span]:
    runner = make()
    with runner.run_context(agent=agent, store=store):
        completed = await asyncio.wait_for(runner.step(task), DEADLINE)
    return list(await store.query_spans(completed.rollout_id))


async def test_two_steps_at_once_in_one_process_keep_apart(store: agl.InMemoryLightningStore) -> None:
    meeting = asyncio.Barrier(2)

    @agl.rollout
    async def agent(task: str) -> float:
        await meeting.wait()
        agl.emit_message(task)
        await meeting.wait()
        return float(task)

    first, second = await asyncio.gather(run(store, agent, "1"), run(store, agent, "2"))
    assert [agl.get_message_value(span) for span in first] == ["1", None]
    assert [agl.get_message_value(span) for span in second] == ["2", None]
    assert (agl.find_final_reward(first), agl.find_final_reward(second)) == (1.0, 2.0)


async def test_a_prompt_of_three_hundred_messages_survives_whole(store: agl.InMemoryLightningStore) -> None:
    @agl.rollout
    def agent(task: str) -> None:
        record_call("q", messages=300)

    (triplet,) = agl.TracerTraceToTriplet()(await run(store, agent))
    assert [message["content"] for message in triplet.prompt["raw_content"]] == [f"q {index}" for index in range(300)]
    assert triplet.metadata["request"]["model"] == "m"


async def test_a_link_assigns_a_reward(store: agl.InMemoryLightningStore) -> None:
    @agl.rollout
    def agent(task: str) -> None:
        first = record_call("a")
        record_call("b")
        agl.emit_reward(0.5, attributes=make_link_attributes({"gen_ai.response.id": first}))

    triplets = agl.TracerTraceToTriplet()(await run(store, agent))
    assert [triplet.reward for triplet in triplets] == [0.5, None]


async def test_a_failed_call_gets_no_reward(store: agl.InMemoryLightningStore) -> None:
    @agl.rollout
    def agent(task: str) -> float:
        record_call("a")
        record_call("b", failed=True)
        return 1.0

    triplets = agl.TracerTraceToTriplet()(await run(store, agent))
    assert [(triplet.metadata["response_id"], triplet.reward) for triplet in triplets] == [("resp-a", 1.0)]


SPANS_WITHOUT_PARENTS = """
from tests.compat.test_v03_adapters import agentops_call, reward
from agentlightning.adapter import TracerTraceToTriplet

spans = [call for number in range(20) for call in (
    agentops_call(2 * number, f"absent-{number * 7919 % 20}"), reward(number / 20, 2 * number + 1, f"absent-{number}")
)]
print([(each.metadata["response_id"], each.reward) for each in TracerTraceToTriplet()(spans)])
"""


def test_the_order_is_independent_of_the_hash_seed() -> None:
    answers = {
        subprocess.run(
            [sys.executable, "-c", SPANS_WITHOUT_PARENTS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(answers) == 1
    assert "resp-38" in answers.pop()
