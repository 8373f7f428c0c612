"""Facts of v0.3's agents that programs rely on; docs/compat.md lists them."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from agentlightning.litagent import LitAgent, llm_rollout, prompt_rollout, rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.tracer import DummyTracer
from agentlightning.trainer import Trainer
from agentlightning.types import LLM, Attempt, AttemptedRollout, NamedResources, PromptTemplate, ProxyLLM, Rollout

PROXY: NamedResources = {"main": ProxyLLM(endpoint="http://gateway/v1", model="m")}
TASK = Rollout(rollout_id="ro-1", input="task", start_time=0.0)
ATTEMPT = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0, status="preparing")
ATTEMPTED = AttemptedRollout(**TASK.model_dump(), attempt=ATTEMPT)


class Sync(LitAgent[str]):
    def rollout(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
        return 1.0


class Async(LitAgent[str]):
    async def rollout_async(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
        return 2.0


class Both(Sync, Async):
    pass


def test_the_general_methods_are_abstract() -> None:
    agent = LitAgent[str]()
    with pytest.raises(NotImplementedError):
        agent.rollout("task", {}, TASK)
    with pytest.raises(NotImplementedError):
        asyncio.run(agent.rollout_async("task", {}, TASK))


async def test_variants_for_modes_default_to_the_general_method() -> None:
    assert Sync().training_rollout("task", {}, TASK) == Sync().validation_rollout("task", {}, TASK) == 1.0
    assert await Async().training_rollout_async("task", {}, TASK) == 2.0
    assert await Async().validation_rollout_async("task", {}, TASK) == 2.0


def test_a_class_says_whether_it_is_async() -> None:
    class Late(LitAgent[str]):
        async def validation_rollout_async(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
            return 0.0

    class Insists(Both):
        def is_async(self) -> bool:
            return False

    assert [kind().is_async() for kind in (Sync, Async, Late, Insists)] == [False, True, True, False]
    assert Insists().method_for("train").__name__ == "rollout"


def test_of_both_sides_the_async_one_wins() -> None:
    assert Both().is_async()
    assert Both().method_for("train").__name__ == "rollout_async"


def test_trained_agents_is_deprecated() -> None:
    with pytest.deprecated_call(match="agent_match"):
        assert LitAgent[str](trained_agents="writer").trained_agents == "writer"


def test_back_references_are_weak_and_say_when_they_are_missing() -> None:
    agent = Sync()
    runner, trainer = LitAgentRunner[str](DummyTracer()), Trainer()
    agent.set_runner(runner)
    agent.set_trainer(trainer)
    assert agent.runner is agent.get_runner() is runner
    assert agent.trainer is agent.get_trainer() is trainer
    del runner, trainer
    gc.collect()
    for name in ("runner", "trainer"):
        with pytest.raises(ValueError, match=name):
            getattr(agent, name)


def test_the_tracer_is_the_runners() -> None:
    agent, runner = Sync(), LitAgentRunner[str](DummyTracer())
    agent.set_runner(runner)
    assert agent.tracer is agent.get_tracer() is runner.tracer


def test_a_functional_agent_has_one_side() -> None:
    @rollout
    def plain(task: str) -> float:
        return 1.0

    @rollout
    async def later(task: str) -> float:
        return 1.0

    with pytest.raises(RuntimeError):
        asyncio.run(plain.rollout_async("task", {}, ATTEMPTED))
    with pytest.raises(RuntimeError):
        later.rollout("task", {}, ATTEMPTED)


def asked(agent: LitAgent[Any], given: Rollout = ATTEMPTED) -> Any:
    return agent.rollout("task", PROXY, given)


def test_proxies_are_resolved_unless_asked_not_to() -> None:
    def endpoint(task: str, llm: LLM) -> Any:
        return llm

    resolved = asked(llm_rollout(endpoint))
    assert type(resolved) is LLM
    assert resolved.endpoint == "http://gateway/rollout/ro-1/attempt/at-1/v1"
    assert isinstance(asked(llm_rollout(strip_proxy=False)(endpoint)), ProxyLLM)


def test_a_proxy_stays_one_where_there_is_no_attempt() -> None:
    assert isinstance(asked(llm_rollout(lambda task, llm: llm), TASK), ProxyLLM)


def test_the_first_parameter_is_the_task() -> None:
    with pytest.raises(ValueError, match="task"):
        rollout(lambda question, llm: question)


def test_a_prompt_rollout_takes_both_forms() -> None:
    def fill(task: str, prompt_template: PromptTemplate) -> str:
        return prompt_template.format(task=task)

    resources: NamedResources = {"p": PromptTemplate(template="do {task}", engine="f-string")}
    for agent in (prompt_rollout(fill), prompt_rollout()(fill)):
        assert agent.rollout("task", resources, ATTEMPTED) == "do task"
