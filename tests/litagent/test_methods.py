"""Methods as agents: decorated in their class, taken from an instance, static, overridden."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

from agentlightning.errors import InvalidAgent
from agentlightning.litagent import FunctionalLitAgent, LitAgent, llm_rollout, rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import OtelTracer
from agentlightning.types import LLM, NamedResources, Rollout

MODEL = LLM(endpoint="http://host/v1", model="m")


class Team:
    def __init__(self, bonus: float) -> None:
        self.bonus = bonus

    @rollout
    def add(self, task: float, llm: LLM) -> float:
        return task + self.bonus

    @llm_rollout(strip_proxy=False)
    async def add_async(self, task: float, llm: LLM) -> float:
        return task + self.bonus

    @staticmethod
    @rollout
    def double(task: float) -> float:
        return 2 * task

    @rollout
    @staticmethod
    def triple(task: float) -> float:
        return 3 * task

    def plain(self, task: float, llm: LLM) -> float:
        return task - self.bonus


async def reward_of(agent: LitAgent[Any], task: float) -> float | None:
    from agentlightning.emitter import find_final_reward

    store, runner = InMemoryLightningStore(), LitAgentRunner[float](OtelTracer())
    with runner.run_context(agent=agent, store=store):
        completed = await runner.step(task, resources={"main": MODEL})
    reward = find_final_reward(await store.query_spans(completed.rollout_id))
    await store.close()
    return reward


async def test_the_method_of_an_instance_is_an_agent() -> None:
    team = Team(0.5)
    for agent in (team.add, team.add_async, rollout(lambda task, llm: team.plain(-task, llm) * -1)):
        assert await reward_of(agent, 1.0) == 1.5
    assert await reward_of(rollout(team.plain), 1.0) == 0.5
    assert not team.add_async.strip_proxy


async def test_static_methods_belong_to_class_and_instance() -> None:
    for agent in (Team.double, Team(0.5).double):
        assert await reward_of(agent, 1.0) == 2.0
    for agent in (Team.triple, Team(0.5).triple):
        assert await reward_of(agent, 1.0) == 3.0


def test_two_instances_have_agents_of_their_own() -> None:
    one, two = Team(1.0).add, Team(2.0).add
    assert (one(1.0, MODEL), two(1.0, MODEL), Team.add(Team(3.0), 1.0, MODEL)) == (2.0, 3.0, 4.0)


def test_a_method_without_its_instance_is_refused_with_its_signature() -> None:
    with pytest.raises(InvalidAgent, match=r"Team\.add\(self, task: 'float', llm: 'LLM'\).*one of an instance"):
        Team.add.method_for("train")


@pytest.mark.parametrize("module", [pickle, cloudpickle], ids=lambda module: module.__name__)
def test_methods_are_picklable(module: Any) -> None:
    copied = module.loads(module.dumps(Team(0.5).add))
    assert isinstance(copied, FunctionalLitAgent)
    assert copied.rollout(1.0, {"main": MODEL}, None) == 1.5
    assert module.loads(module.dumps(copied)).rollout(1.0, {"main": MODEL}, None) == 1.5
    assert module.loads(module.dumps(Team.add)) is Team.add
    assert module.loads(module.dumps(Team.double)) is Team.double
    assert module.loads(module.dumps(rollout(Team(0.5).plain))).rollout(1.0, {"main": MODEL}, None) == 0.5


def test_an_agent_in_another_class_stays_itself() -> None:
    class Settings:
        agent = Team.double

    assert Settings().agent is Team.double


class Both(LitAgent[float]):
    def rollout(self, task: float, resources: NamedResources, rollout: Rollout) -> float:
        return 0.0

    async def rollout_async(self, task: float, resources: NamedResources, rollout: Rollout) -> float:
        return 1.0


class SaysSync(Both):
    def is_async(self) -> bool:
        return False


async def test_a_class_that_says_whether_it_is_async_is_believed() -> None:
    assert (await reward_of(Both(), 0.0), await reward_of(SaysSync(), 0.0)) == (1.0, 0.0)


class TrainsInAThread(Both):
    def training_rollout(self, task: float, resources: NamedResources, rollout: Rollout) -> float:
        return 2.0


def test_a_method_for_the_mode_comes_before_an_async_one_for_all() -> None:
    agent = TrainsInAThread()
    assert agent.method_for("train") == agent.training_rollout
    assert agent.method_for("val") == agent.rollout_async


def test_functions_of_a_script_travel_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that gets them has another `__main__`."""
    script = ModuleType("__main__")
    exec("def agent(task):\n    return task + 1", vars(script))
    agent = rollout(vars(script)["agent"])
    vars(script)["agent"] = agent
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "__main__", script)
        pickled = cloudpickle.dumps(agent)
    assert pickle.loads(pickled)(1) == 2
