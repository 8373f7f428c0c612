from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.errors import ConfigurationError


def test_every_argument_is_given_by_name() -> None:
    parameters = inspect.signature(agl.Trainer).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("old", "new", "attribute"),
    [({"n_workers": 3}, {"n_runners": 3}, "n_runners"), ({"max_tasks": 4}, {"max_rollouts": 4}, "max_rollouts")],
    ids=["n_workers", "max_tasks"],
)
def test_old_names_work_and_warn(old: dict[str, int], new: dict[str, int], attribute: str) -> None:
    with pytest.warns(DeprecationWarning, match="is now"):
        trainer = agl.Trainer(**old)  # type: ignore[arg-type]
    assert getattr(trainer, attribute) == getattr(agl.Trainer(**new), attribute)  # type: ignore[arg-type]


def test_new_name_wins_over_the_old_one_and_the_warning_says_so() -> None:
    with pytest.warns(DeprecationWarning, match="n_runners=2 is used"):
        trainer = agl.Trainer(n_runners=2, n_workers=5)
    assert trainer.n_runners == 2


def test_adapter_by_its_old_name() -> None:
    adapter = agl.TraceToMessages()
    with pytest.warns(DeprecationWarning, match="is now adapter"):
        assert agl.Trainer(triplet_exporter=adapter).adapter is adapter


@pytest.mark.parametrize("flag", [{"dev": True}, {"daemon": False}], ids=["dev", "daemon"])
def test_flags_without_effect_warn(flag: dict[str, Any]) -> None:
    with pytest.warns(DeprecationWarning, match="does nothing"):
        agl.Trainer(**flag)


def test_adapter_from_a_dict_without_type_is_the_default_one() -> None:
    adapter = agl.Trainer(adapter={"agent_match": "planner"}).adapter
    assert isinstance(adapter, agl.TracerTraceToTriplet)
    assert adapter.agent_match == "planner"


def test_any_other_dict_must_name_its_class() -> None:
    with pytest.raises(ConfigurationError, match=r"store is a dict without 'type'.*sqlite"):
        agl.Trainer(store={"path": "runs.db"})


def test_initialised_strategy_wins_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="agentlightning"):
        trainer = agl.Trainer(strategy=agl.SharedMemoryExecutionStrategy(n_runners=3), n_runners=2)
    assert trainer.n_runners == 3
    assert "n_runners=2 is ignored" in caplog.text


def test_port_goes_to_a_strategy_that_serves_and_to_no_other(caplog: pytest.LogCaptureFixture) -> None:
    served = agl.Trainer(strategy=agl.ClientServerExecutionStrategy(server_port=4001), port=4002).strategy
    assert isinstance(served, agl.ClientServerExecutionStrategy)
    assert served.server_port == 4002
    with caplog.at_level(logging.WARNING, logger="agentlightning"):
        agl.Trainer(port=4003)
    assert "port=4003 is ignored" in caplog.text


def test_tracer_and_limit_of_an_instance_stay_its_own(caplog: pytest.LogCaptureFixture) -> None:
    runner = agl.LitAgentRunner[Any](agl.DummyTracer(), max_rollouts=9)
    with caplog.at_level(logging.WARNING, logger="agentlightning"):
        assert agl.Trainer(runner=runner, max_rollouts=2, tracer=agl.OtelTracer()).runner is runner
    assert "its own max_rollouts" in caplog.text
    assert "its own tracer" in caplog.text


def test_limit_of_a_specification_wins_and_nothing_else_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="agentlightning"):
        agl.Trainer(runner={"type": "litagent", "max_rollouts": 5}, max_rollouts=2, tracer=agl.OtelTracer())
    assert [record.args for record in caplog.records] == [("max_rollouts",)]


def test_proxy_made_by_the_trainer_has_the_trainers_store() -> None:
    trainer = agl.Trainer(llm_proxy={"type": "gateway", "port": 0})
    assert trainer.llm_proxy is not None
    assert trainer.llm_proxy.get_store() is trainer.store
