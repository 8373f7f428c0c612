"""Each example runs as its README says, against a model that speaks from a script: every call is seen once, exactly."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.adapter import merge_calls
from agentlightning.adapter.llm_call import read_calls
from agentlightning.doctor.script import Reply, Script, ToolCall
from agentlightning.doctor.scripted_model import ScriptedModel

EXAMPLES = Path(__file__).parents[2] / "examples"
Json = dict[str, Any]


@pytest.fixture
async def store() -> AsyncIterator[agl.LightningStore]:
    store = agl.InMemoryLightningStore()
    yield store
    await store.close()


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def last(request: Json) -> Json:
    return request["messages"][-1]


def geographer(request: Json) -> Reply:
    question = last(request)["content"]
    return Reply("Lisbon." if "Portugal" in question else "Nairobi" if "Kenya" in question else "Sydney")


def journalist(request: Json) -> Reply:
    if "museum" in request["messages"][0]["content"]:
        return Reply("Lost painting found behind boiler")
    long = "After nine hours the town council agrees to repair one bench"
    return Reply(long if len(request["messages"]) == 1 else "Council repairs bench, slowly")


def mathematician(request: Json) -> Reply:
    if last(request)["role"] == "tool":
        return Reply(f"It is {last(request)['content']}.")
    if "eggs" in last(request)["content"]:
        return Reply(tool_calls=[ToolCall("multiply", {"a": 12, "b": 17})])
    return Reply(tool_calls=[ToolCall("subtract", {"a": 68, "b": 250})])  # the wrong way round


def storekeeper(request: Json) -> Reply:
    if last(request)["role"] == "tool":
        return Reply("Yes.")
    item = "bolt" if "bolt" in last(request)["content"] else "bracket"
    return Reply(tool_calls=[ToolCall("stock_of", {"item": item})])


def receptionist(request: Json) -> Reply:
    if last(request)["role"] == "tool":
        return Reply(f"Today it is: {last(request)['content']}")
    places = [place for place in ("pool", "museum") if place in last(request)["content"]]
    return Reply(tool_calls=[ToolCall("opening_hours", {"place": place}) for place in places])


CASES: dict[str, tuple[Script, list[float], int]] = {
    "openai_chat": (geographer, [1.0, 1.0, 0.0], 3),
    "openai_streaming": (journalist, [0.5, 1.0], 3),
    "langgraph_tools": (mathematician, [1.0, 0.0], 4),
    "openai_agents": (storekeeper, [1.0, 0.0], 4),
    "mcp_tools": (receptionist, [1.0, 1.0], 4),
}
"""By example: how its model answers, the rewards of its tasks, and the number of model calls."""


@pytest.mark.parametrize("name", CASES)
async def test_an_example_runs_and_its_calls_are_training_data(
    name: str, store: agl.LightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, expected, n_calls = CASES[name]
    example, rewards = load(name), list[float]()
    monkeypatch.setattr(example, "print", lambda reward, _task: rewards.append(reward), raising=False)
    with ScriptedModel(script) as model:
        monkeypatch.setenv("OPENAI_MODEL", model.name)
        monkeypatch.setenv("OPENAI_BASE_URL", model.url)
        monkeypatch.setenv("OPENAI_API_KEY", "unused")
        async with asyncio.timeout(60):
            await example.main(store)
    assert rewards == expected
    rollouts = await store.query_rollouts()
    assert [rollout.status for rollout in rollouts] == ["succeeded"] * len(expected)
    assert len(model.requests) == n_calls
    assert sum([await calls_in_one_row(store, rollout.rollout_id) for rollout in rollouts]) == n_calls


async def calls_in_one_row(store: agl.LightningStore, rollout_id: str) -> int:
    """Check that all calls of a rollout make one row of exact tokens, each call once; returns how many they are."""
    reading = read_calls(await store.query_spans(rollout_id))
    assert reading.failed == []
    sampled = [token for call in reading.calls for token in call.response_token_ids]
    trajectories = merge_calls(reading.calls)
    (row,) = trajectories.rows
    assert [token for token, masked in zip(row.token_ids, row.mask, strict=True) if masked] == sampled
    assert trajectories.counters.calls_without_tokens == trajectories.counters.broken_prefixes == 0
    for seen in reading.seen:
        assert [sighting.source for sighting in seen.sightings][:2] == ["gateway", "openinference"]
        assert seen.sightings[0].has_tokens
        assert seen.sightings[0].has_logprobs
    return len(reading.calls)


async def test_streamed_calls_are_known_as_such(store: agl.LightningStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedModel(journalist) as model:
        monkeypatch.setenv("OPENAI_MODEL", model.name)
        monkeypatch.setenv("OPENAI_BASE_URL", model.url)
        await load("openai_streaming").main(store)
    for rollout in await store.query_rollouts():
        assert all(call.streamed for call in read_calls(await store.query_spans(rollout.rollout_id)).calls)


async def test_an_agent_is_as_readme_says(store: agl.LightningStore) -> None:
    """The agents and tasks that the READMEs hand to `agl doctor` exist and fit together."""
    for name in CASES:
        readme = (EXAMPLES / name / "README.md").read_text("utf-8")
        (command,) = [line for line in readme.splitlines() if line.startswith("agl doctor")]
        (task,) = [line for line in readme.splitlines() if line.startswith("echo")]
        path, _, agent = command.split()[2].partition(":")
        assert (EXAMPLES.parent / path).exists()
        assert isinstance(getattr(load(name), agent), agl.LitAgent)
        example = load(name).TASKS[0]
        given = json.loads(task.removeprefix("echo '").removesuffix("' > task.json"))
        assert type(given) is type(example)
        assert isinstance(given, str) or given.keys() == example.keys()
