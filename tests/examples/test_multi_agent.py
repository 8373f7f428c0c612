"""The example with two agents: both are seen, and only the calls of the one that is asked for are training data."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.doctor.scripted_model import ScriptedModel

MAIN = Path(__file__).parents[2] / "examples" / "multi_agent" / "main.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_multi_agent", MAIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(request: dict[str, Any]) -> str:
    """Write too much about an umbrella at first, and never about a bicycle."""
    messages = request["messages"]
    if "edit" in messages[0]["content"]:
        return "Too long."
    if "umbrella" not in messages[1]["content"]:
        return "Ride on"
    return "An umbrella is what you need when it rains" if len(messages) == 2 else "Umbrella up, smile on"


async def test_only_the_author_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    example, store, printed = load(), agl.InMemoryLightningStore(), list[tuple[Any, ...]]()
    monkeypatch.setattr(example, "print", lambda *words: printed.append(words), raising=False)
    with ScriptedModel(write) as model:
        monkeypatch.setenv("OPENAI_MODEL", model.name)
        monkeypatch.setenv("OPENAI_BASE_URL", model.url)
        async with asyncio.timeout(60):
            await example.main(store)
    assert len(model.requests) == 6
    assert printed == [
        (None, "author", "An umbrella is what you need when it rains"),
        (1.0, "author", "Umbrella up, smile on"),
        (None, "author", "Ride on"),
        (0.0, "author", "Ride on"),
    ]
    for rollout in await store.query_rollouts():
        assert rollout.status == "succeeded"
        await check_rows(await store.query_spans(rollout.rollout_id))
    await store.close()


async def test_the_author_is_known_even_if_only_the_gateway_saw_its_calls() -> None:
    store = agl.InMemoryLightningStore()
    with ScriptedModel(write) as model:
        gateway = agl.LLMProxy(model_list=model.model_list, store=store)
        await gateway.start()
        try:
            runner = agl.LitAgentRunner[Any](agl.OtelTracer(instrument=None))
            with runner.run_context(agent=load().slogan, store=store):
                rollout = await runner.step({"product": "umbrella"}, resources={"llm": gateway.as_resource()})
        finally:
            await gateway.stop()
    spans = await store.query_spans(rollout.rollout_id)
    assert {span.parent_id for span in spans if span.name == "agentlightning.llm_call"} == {None}
    assert len(agl.TracerTraceToTriplet(agent_match="author")(spans)) == 2
    assert agl.TracerTraceToTriplet(agent_match="author", repair_hierarchy=False)(spans) == []
    await store.close()


async def check_rows(spans: Any) -> None:
    """Both turns of the author are one row; the editor has its own, which is left out if only the author is trained."""
    everybody, author = agl.TraceToTrajectories().read(spans), agl.TraceToTrajectories(agent_match="author").read(spans)
    assert (everybody.counters.calls, len(everybody.rows)) == (3, 2)
    assert (author.counters.calls, author.counters.merged, len(author.rows)) == (2, 1, 1)
