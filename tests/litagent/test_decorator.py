from __future__ import annotations

import functools
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from agents_in_a_module import ByState, by_name, run_in_spawned_process

from agentlightning.errors import InvalidAgent, MissingResource
from agentlightning.litagent import FunctionalLitAgent, LitAgent, llm_rollout, prompt_rollout, rollout
from agentlightning.types import (
    LLM,
    Attempt,
    AttemptedRollout,
    NamedResources,
    PromptTemplate,
    ProxyLLM,
    Resource,
    Rollout,
)

if TYPE_CHECKING:
    from agentlightning.types import Worker

ROLLOUT = AttemptedRollout(
    rollout_id="ro-1",
    input=0,
    start_time=0.0,
    attempt=Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0),
)
MODEL = LLM(endpoint="http://host/v1", model="m")
PROXY = ProxyLLM(endpoint="http://host/v1", model="m")
PROMPT = PromptTemplate(template="{x}", engine="f-string")


@llm_rollout
def module_level(task: str, llm: LLM) -> float:
    """Do it."""
    return 1.0


def call(function: Any, resources: NamedResources, **options: Any) -> Any:
    return rollout(function, **options).rollout("task", resources, ROLLOUT)


def test_a_decorated_function_stays_callable_and_keeps_its_face() -> None:
    assert isinstance(module_level, FunctionalLitAgent)
    assert module_level("x", MODEL) == 1.0
    assert (module_level.__name__, module_level.__doc__) == ("module_level", "Do it.")
    assert list(inspect.signature(module_level).parameters) == ["task", "llm"]


def test_each_parameter_gets_what_it_names() -> None:
    def agent(task: str, llm: LLM, prompt_template: PromptTemplate, rollout: Rollout, resources: NamedResources) -> Any:
        return task, llm, prompt_template, rollout, resources

    resources: NamedResources = {"a": MODEL, "b": PROMPT}
    assert call(agent, resources) == ("task", MODEL, PROMPT, ROLLOUT, resources)


def test_the_resource_of_the_name_comes_before_the_one_of_the_type() -> None:
    def agent(task: str, llm: LLM, judge: LLM, hint: Any = None) -> Any:
        return llm.model, judge.model, hint

    models: NamedResources = {name: LLM(endpoint="e", model=name) for name in ("first", "llm", "judge")}
    assert call(agent, models) == ("llm", "judge", None)
    assert call(agent, {**models, "hint": PROMPT}) == ("llm", "judge", PROMPT)


def test_types_come_from_annotations_in_any_spelling() -> None:
    def union(task: str, model: LLM | None = None) -> Any:
        return model

    def unknown_name(task: str, model: LLM, other: Worker | None = None) -> Any:  # Worker exists for checkers only
        return model

    assert call(union, {"x": MODEL}) == MODEL
    assert call(union, {}) is None
    assert call(unknown_name, {"x": MODEL}) == MODEL


@pytest.mark.parametrize(
    "text",
    ["LLM", "LLM | Worker", "None | LLM", "Optional[LLM]", "typing.Optional[types.LLM]", "Union[Worker, LLM]", "'LLM'"],
)
def test_annotations_that_only_checkers_can_evaluate_say_what_they_say(text: str) -> None:
    def agent(task: str, model: Any) -> Any:
        return model

    agent.__annotations__["model"] = text
    assert call(agent, {"x": MODEL, "y": PROMPT}) == MODEL


def test_a_union_takes_a_resource_of_each_of_its_types() -> None:
    def either(task: str, thing: LLM | PromptTemplate) -> Any:
        return thing

    def named(task: str, llm: PromptTemplate | LLM) -> Any:
        return llm

    assert call(either, {"a": MODEL}) == MODEL
    assert call(either, {"a": PROMPT}) == PROMPT
    assert call(named, {"a": PROMPT, "b": MODEL}) == MODEL
    with pytest.raises(MissingResource, match="takes an LLM or a PromptTemplate and there are several"):
        call(either, {"a": MODEL, "b": PROMPT})


def test_a_parameter_of_another_type_keeps_its_default_whatever_the_resources_are_called() -> None:
    def agent(task: str, policy: str = "greedy", hint: object = None, tip=None) -> Any:  # type: ignore[no-untyped-def]
        return policy, hint, tip

    assert call(agent, {"policy": MODEL, "hint": PROMPT, "tip": MODEL}) == ("greedy", PROMPT, MODEL)


def test_name_and_annotation_together_mean_the_narrower_type() -> None:
    def wide(task: str, llm: Resource) -> Any:
        return llm

    def narrow(task: str, llm: ProxyLLM) -> Any:
        return llm

    assert call(wide, {"p": PROMPT, "m": MODEL}) == MODEL
    assert call(narrow, {"m": MODEL, "x": PROXY}, strip_proxy=False) == PROXY


def test_ambiguity_and_absence_name_the_keys() -> None:
    def agent(task: str, llm: LLM) -> None: ...

    with pytest.raises(MissingResource, match=r"several, \['a', 'b'\]"):
        call(agent, {"a": MODEL, "b": MODEL})
    with pytest.raises(MissingResource, match=r"resources are \['p'\].*add_resources"):
        call(agent, {"p": PROMPT})
    with pytest.raises(MissingResource, match=r"takes an LLM.*is a PromptTemplate"):
        call(agent, {"llm": PROMPT, "main": MODEL})


def test_the_rollout_and_all_resources_are_not_hidden_by_resources_of_their_name() -> None:
    def agent(task: str, rollout: Rollout, resources: NamedResources) -> Any:
        return rollout, resources

    named: NamedResources = {"rollout": MODEL, "resources": PROMPT}
    assert call(agent, named) == (ROLLOUT, named)


def test_a_task_alone_is_fine() -> None:
    assert call(lambda task: task, {}) == "task"


def no_task(x: str) -> None: ...
def unknown_parameter(task: str, tools: list[str]) -> None: ...
def positional_only(task: str, llm: LLM, /) -> None: ...
def variadic(*task: str) -> None: ...
def keyword_only(*, task: str, llm: LLM) -> None: ...
def contradictory(task: str, llm: PromptTemplate) -> None: ...
def yields(task: str) -> Any:
    yield 1.0


async def yields_async(task: str) -> Any:
    yield 1.0


REFUSED = [no_task, unknown_parameter, positional_only, keyword_only, variadic, contradictory, yields, yields_async]


@pytest.mark.parametrize("function", REFUSED)
def test_what_cannot_be_filled_is_refused_with_its_signature(function: Any) -> None:
    with pytest.raises(InvalidAgent) as caught:
        rollout(function)
    assert str(inspect.signature(function)) in str(caught.value)
    assert function.__name__ in str(caught.value)


class NotAnInstance(LitAgent[str]): ...


@pytest.mark.parametrize(
    ("thing", "hint"), [(module_level, "already"), (NotAnInstance, "derive"), (False, "bool"), (dict.get, "task")]
)
def test_what_is_no_function_is_refused_with_what_to_do(thing: Any, hint: str) -> None:
    with pytest.raises(InvalidAgent, match=hint):
        rollout(thing)


def test_specific_decorators_need_their_parameter() -> None:
    with pytest.raises(ValueError, match=r"`llm`: .*variadic\(task: 'str', \*llm: 'LLM'\)"):

        @llm_rollout
        def variadic(task: str, *llm: LLM) -> None: ...

    with pytest.raises(ValueError, match="`llm`"):
        llm_rollout(lambda task, prompt_template: None)
    with pytest.raises(ValueError, match="`prompt_template`"):
        prompt_rollout()(lambda task, llm: None)
    assert prompt_rollout(lambda task, prompt_template: prompt_template).rollout("t", {"p": PROMPT}, ROLLOUT) == PROMPT


def test_every_decorator_takes_both_forms() -> None:
    def agent(task: str, llm: LLM) -> str:
        return llm.get_base_url()

    attempt_url = "http://host/rollout/ro-1/attempt/at-1/v1"
    for made in (rollout(agent), rollout()(agent), llm_rollout(agent), llm_rollout()(agent)):
        assert made.rollout("t", {"m": PROXY}, ROLLOUT) == attempt_url
    for made in (rollout(strip_proxy=False)(agent), llm_rollout(strip_proxy=False)(agent)):
        assert made.rollout("t", {"m": PROXY}, ROLLOUT) == "http://host/v1"


async def test_async_functions_partials_methods_and_callables() -> None:
    class Agent:
        async def method(self, task: str, llm: LLM) -> str:
            return llm.model

        async def __call__(self, task: str, llm: LLM) -> str:
            return llm.model

    async def with_extra(extra: int, task: str, llm: LLM) -> str:
        return llm.model

    for function in (Agent().method, Agent(), functools.partial(with_extra, 1)):
        agent = rollout(function)
        assert agent.is_async()
        assert agent.method_for("train") == agent.rollout_async
        assert await agent.rollout_async("t", {"m": MODEL}, ROLLOUT) == "m"
        with pytest.raises(RuntimeError, match="rollout_async"):
            agent.rollout("t", {"m": MODEL}, ROLLOUT)
    with pytest.raises(RuntimeError, match="call rollout"):
        await module_level.rollout_async("t", {"m": MODEL}, ROLLOUT)


def test_agents_are_picklable() -> None:
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    scale = 3
    closure = rollout(lambda task: task * scale, strip_proxy=False)
    copied = cloudpickle.loads(cloudpickle.dumps(closure))
    assert copied(2) == 6
    assert copied.strip_proxy is False


@pytest.mark.parametrize("agent", [by_name, ByState(2.0)], ids=["function", "class"])
def test_a_spawned_process_runs_the_agent(agent: LitAgent[Any]) -> None:
    from agentlightning.runner import LitAgentRunner
    from agentlightning.tracer import DummyTracer

    runner = LitAgentRunner[float](DummyTracer())
    agent.set_runner(runner)
    assert run_in_spawned_process(agent, 1.5) == 3.0


class TrainsAndValidates(LitAgent[str]):
    async def training_rollout_async(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
        return 1.0

    def rollout(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
        return 0.0


def test_the_method_is_chosen_for_each_mode() -> None:
    agent = TrainsAndValidates()
    assert agent.method_for("train") == agent.training_rollout_async
    for mode in ("val", "test", None):
        assert agent.method_for(mode) == agent.rollout
    with pytest.raises(InvalidAgent, match="override rollout"):
        LitAgent[str]().method_for("train")


def test_a_class_agent_with_a_runner_is_picklable() -> None:
    from agentlightning.runner import LitAgentRunner
    from agentlightning.tracer import DummyTracer

    agent, runner = TrainsAndValidates(), LitAgentRunner[str](DummyTracer())
    agent.set_runner(runner)
    assert agent.runner is runner
    assert agent.tracer is runner.tracer
    copied = pickle.loads(pickle.dumps(agent))
    with pytest.raises(ValueError, match="no runner"):
        copied.get_runner()
    with pytest.raises(ValueError, match="no trainer"):
        copied.get_trainer()


def test_a_parameter_annotated_as_a_proxy_gets_it_resolved() -> None:
    def agent(task: str, model: ProxyLLM) -> LLM:
        return model

    assert call(agent, {"main": PROXY}) == PROXY.with_attempted_rollout(ROLLOUT)
    assert call(agent, {"main": PROXY, "other": MODEL}, strip_proxy=False) == PROXY


@pytest.mark.parametrize("text", ["3", "LLM.nothing", "list[", "LLM[", "list[LLM]"])
def test_annotations_that_cannot_be_evaluated_are_read_as_text(text: str) -> None:
    def agent(task: str, model: LLM, other: Any = None) -> LLM:
        return model

    def unreadable(task: str, other: Any) -> None: ...

    for function in (agent, unreadable):
        function.__annotations__["other"] = text
    assert call(agent, {"main": MODEL}) == MODEL
    with pytest.raises(InvalidAgent, match="nobody fills parameter `other`"):
        rollout(unreadable)
