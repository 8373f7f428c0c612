"""The ways of working of v0.3's documentation, as programs of ours."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.doctor.script import Reply, ToolCall
from agentlightning.doctor.scripted_model import ScriptedModel
from tests.examples.programs import DEADLINE, EXAMPLES, environment, load, outcome, running_python, set_environment

Json = dict[str, Any]


@pytest.fixture
async def store() -> AsyncIterator[agl.LightningStore]:
    store = agl.InMemoryLightningStore()
    yield store
    await store.close()


def painter(request: Json) -> str:
    """Say the right colour, in a sentence unless it is told to use one word."""
    words = request["messages"][-1]["content"]
    colour = "yellow" if "banana" in words else "white" if "snow" in words else "black"
    return colour if "one word" in words else f"It is {colour}."


async def test_the_first_algorithm_finds_the_better_prompt(
    store: agl.LightningStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load("first_algorithm")
    with ScriptedModel(painter) as model:
        set_environment(monkeypatch, model)
        async with asyncio.timeout(DEADLINE):
            assert await example.main(store) == example.PROMPTS[1]
    printed = capsys.readouterr().out
    assert "0.00 What colour is {thing}?" in printed
    assert "     assistant: It is yellow.\n" in printed
    assert len(model.requests) == len(example.PROMPTS) * len(example.TASKS)
    assert {rollout.status for rollout in await store.query_rollouts()} == {"succeeded"}


def test_a_custom_algorithm_sees_rewards_and_tokens_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    example, records = load("custom_algorithm"), list[Json]()
    with ScriptedModel(painter) as model:
        set_environment(monkeypatch, model)
        result = example.main(on_metrics=lambda record: records.append(dict(record)))
    assert result.score == 1.0
    assert result.resources["prompt_template"].template == example.PROMPTS[1]
    assert [record["score"] for record in records] == [0.0, 1.0]
    assert all(record["sampled_tokens"] > len(example.TASKS) for record in records)


async def test_one_step_shows_what_happens_and_raises_what_the_agent_raises(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with asyncio.timeout(DEADLINE):
        await load("debugging").step()
    assert capsys.readouterr().out.splitlines() == [
        "'level' begins",
        "'level' left ['operation', 'message', 'annotation']",
        "'level' got 1.0",
        "succeeded 1.0",
        "'Noon' begins",
        "'Noon' left ['operation', 'message', 'annotation']",
        "'Noon' got 0.0",
        "succeeded 0.0",
        "'a man, a plan, a canal' begins",
        "'a man, a plan, a canal' left ['operation', 'message', 'annotation']",
        "'a man, a plan, a canal' got 0.0",
        "succeeded 0.0",
        "' , ' begins",
        "' , ' left ['operation', 'message', 'exception']",
        "' , ' got None",
        "raised: nothing is left of the task",
    ]


def test_a_dry_run_calls_the_hooks_around_each_rollout(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("debugging")
    assert example.dev().rollouts == {"succeeded": len(example.TASKS)}
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if "got" in line].count("'level' got 1.0") == 1
    assert len(printed) == 3 * len(example.TASKS)


class Secretary:
    """Plays all models of the booking example: good at it if the prompt asks for one sentence."""

    def __call__(self, request: Json) -> str | Reply:
        first, last = request["messages"][0]["content"], request["messages"][-1]
        if first.startswith("A booking agent was asked"):
            return "10" if "It answered: I suggest" in first else "3, for it does not say what to do."
        if "tools" not in request:
            return self.improve(first)
        if last["role"] == "tool":
            return f"I suggest {last['content']}." if "one sentence" in first else "Let me think about rooms."
        return Reply(tool_calls=[ToolCall("free_rooms", {"start": 11, "end": 12, "seats": 4})])

    def improve(self, words: str) -> str:
        """Criticise, or rewrite the prompt that stands in the request."""
        if "<critique>" not in words:
            return "It should say the room in one sentence."
        prompt = re.search(r"<prompt>\n(.*)\n</prompt>", words, re.DOTALL)
        assert prompt is not None
        return prompt[1].replace(" Answer in one sentence.", "") + " Answer in one sentence."


def test_rooms_are_booked_with_a_tool_and_judged_by_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("room_booking")
    with ScriptedModel(Secretary()) as model:
        set_environment(monkeypatch, model)
        store = agl.InMemoryLightningStore()
        assert example.baseline(store=store).rollouts == {"succeeded": len(example.REQUESTS)}
        rewards = asyncio.run(rewards_in(store))
    assert rewards == [0.3] * len(example.REQUESTS)
    assert len(model.requests) == 3 * len(example.REQUESTS)


async def test_apo_finds_the_prompt_that_the_judge_likes() -> None:
    async with (
        ScriptedModel(Secretary()) as model,
        running_python(EXAMPLES / "room_booking" / "main.py", "apo", **environment(model)) as program,
    ):
        code, lines, said = await outcome(program)
    assert (code, lines[-1:]) == (0, ["Find a room for this request: {request} Answer in one sentence."]), said


async def rewards_in(store: agl.LightningStore) -> list[float | None]:
    """Return the rewards of all rollouts, and close the store."""
    rollouts = await store.query_rollouts()
    rewards = [agl.find_final_reward(await store.query_spans(each.rollout_id)) for each in rollouts]
    await store.close()
    return rewards


def test_the_bookings_have_the_answers_that_their_rooms_give() -> None:
    """The tasks are not wrong: the tool finds exactly the rooms that are said to be right."""
    load("room_booking")
    from bookings import REQUESTS, free_rooms  # pyright: ignore[reportMissingImports]  # beside the example's program

    asked: list[tuple[int, int, int, list[str]]] = [
        (11, 12, 4, ["whiteboard"]),
        (12, 14, 9, ["screen"]),
        (13, 14, 2, []),
        (17, 19, 30, ["microphone"]),
        (9, 10, 6, ["screen"]),
        (14, 15, 8, ["screen"]),
        (9, 10, 3, ["whiteboard"]),
        (10, 11, 12, []),
    ]
    assert [free_rooms(*each) for each in asked] == [request["right"] for request in REQUESTS]


TRACES = {
    "local": ["bake", "knead", "agentlightning.annotation"],
    "store": ["bake", "knead", "agentlightning.annotation"],
    "otlp": ["knead", "bake"],
    "v0.3": ["knead", "bake"],
}
"""By way: the spans in the order of their sequence ids. Exporters send a span when it has ended, inner ones first."""


@pytest.mark.parametrize("way", TRACES)
async def test_traces_are_written(way: str) -> None:
    async with asyncio.timeout(DEADLINE):
        assert await load("write_traces").main(way) == TRACES[way]


@pytest.mark.parametrize("way", [way for way in TRACES if way != "local"])
async def test_traces_are_written_to_a_server(way: str, store: agl.LightningStore) -> None:
    server = agl.LightningStoreServer(store, port=0)
    await server.start()
    try:
        async with asyncio.timeout(DEADLINE):
            assert await load("write_traces").main(way, server.endpoint) == TRACES[way]
    finally:
        await server.stop()
    (rollout,) = await store.query_rollouts()
    assert rollout.status == "succeeded"


def test_a_run_leaves_its_metrics_in_files(tmp_path: Path) -> None:
    result = load("metrics").run(tmp_path / "run")
    assert result.rollouts == {"succeeded": 27, "failed": 3}
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [(record["step"], record["failed"]) for record in records] == [(0, 1), (1, 1), (2, 1)]
    (written,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"reward" in written.read_bytes()


async def test_prometheus_reads_the_stores_metrics_and_ones_own() -> None:
    async with asyncio.timeout(DEADLINE):
        text = await load("metrics").serve()
    assert 'shop_sales_total{town="Bath"} 2.0\n' in text
    assert 'agl_store_total{operation="enqueue_many_rollouts",status="201"} 1.0\n' in text
    assert 'agl_rollouts_total{mode="train",status="succeeded"} 1.0\n' in text


async def test_prometheus_reads_the_gateways_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedModel(["Hello."]) as model:
        set_environment(monkeypatch, model)
        async with asyncio.timeout(DEADLINE):
            text = await load("metrics").gateway()
    assert re.search(r'agl_gateway_requests_total\{model="policy",path="[^"]+",status="200"\} 1\.0\n', text)
