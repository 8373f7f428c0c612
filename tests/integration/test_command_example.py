"""The programs of examples/command_agent run through the real gateway, with nothing of agentlightning in them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentlightning.adapter import TraceToTrajectories
from agentlightning.adapter.llm_call import llm_calls
from agentlightning.doctor import ScriptedModel
from agentlightning.emitter import find_final_reward
from agentlightning.litagent import CommandAgent
from agentlightning.llm_proxy import LLMProxy
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.tracer import OtelTracer

EXAMPLE = Path(__file__).parents[2] / "examples" / "command_agent" / "main.py"
PROGRAMS = {"shell": ["curl", "jq"], "node": ["node"]}


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(programs)}")


@pytest.fixture
async def store() -> AsyncIterator[LightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("command_agent_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "calls"),
    [pytest.param("shell", 1, marks=needs("curl", "jq")), pytest.param("node", 2, marks=needs("node"))],
)
async def test_an_unmodified_program_is_rewarded_and_its_calls_become_rows(
    example: Any, store: LightningStore, name: str, calls: int
) -> None:
    async with ScriptedModel(lambda request: "42") as model:
        rewards = await example.evaluate(example.AGENTS[name], model.model_list[0]["litellm_params"], store)
    assert rewards == [1.0, 1.0, 0.0]
    assert {request["temperature"] for request in model.requests} == {1.0}
    for rollout in await store.query_rollouts():
        spans = await store.query_spans(rollout.rollout_id)
        assert rollout.status == "succeeded"
        assert [bool(call.response_token_ids) for call in llm_calls(spans)] == [True] * calls
        assert len(TraceToTrajectories().adapt(spans)) == 1


@needs("curl", "jq")
async def test_an_example_fails_with_what_its_model_said(example: Any, store: LightningStore) -> None:
    async with ScriptedModel() as model:
        gone = model.model_list[0]["litellm_params"]
    rewards = await example.evaluate(example.AGENTS["shell"], gone, store)
    assert rewards == [None] * 3
    for rollout in await store.query_rollouts():
        (attempt,) = await store.query_attempts(rollout.rollout_id)
        assert (rollout.status, attempt.status) == ("failed", "failed")
        assert "backend_unreachable" in str(attempt.metadata)


def test_an_example_without_its_argument_says_how_it_is_called() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"usage: python {EXAMPLE} shell|node\n"


V1_AGENT = """
post() {
  curl -sS --fail-with-body -H "Authorization: Bearer $AGL_KEY" -H 'Content-Type: application/json' -d "$1" "$2"
}
post '{"messages": [{"role": "user", "content": "hi"}], "model": "scripted"}' "$AGL_OPENAI_BASE_URL/chat/completions"
post '{"event_type": "reward", "data": {"value": 0.5}}' "$AGL_EVENT_URL"
"""


@needs("curl")
async def test_a_program_of_v1_calls_its_model_and_posts_its_reward(store: LightningStore) -> None:
    async with ScriptedModel() as model:
        gateway = LLMProxy(model_list=model.model_list, store=store)
        await gateway.start()
        runner = LitAgentRunner[Any](OtelTracer())
        agent = CommandAgent(["sh", "-e", "-c", V1_AGENT], timeout=60)
        with runner.run_context(agent=agent, store=store):
            rollout = await runner.step({}, resources={"llm": gateway.as_resource()}, mode="train")
        await gateway.stop()
    spans = await store.query_spans(rollout.rollout_id)
    assert rollout.status == "succeeded"
    assert find_final_reward(spans) == 0.5
    assert len(llm_calls(spans)) == 1
