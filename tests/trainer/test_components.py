from __future__ import annotations

from importlib import import_module

import pytest

from agentlightning.errors import ConfigurationError, WrongComponent
from agentlightning.trainer import build_component


class Engine:
    def __init__(self, power: int = 1, fuel: str = "none") -> None:
        self.power = power
        self.fuel = fuel


class Boat:
    pass


REGISTRY = {"engine": f"{__name__}.Engine"}


def build(spec: object, **options: object) -> Engine | None:
    return build_component(spec, expected_type=Engine, spec_name="engine", registry=REGISTRY, **options)  # type: ignore[arg-type]


def test_instance_is_taken_as_it_is() -> None:
    engine = Engine(power=9)
    assert build(engine, optional_defaults={"power": 2}) is engine
    assert engine.power == 9


def test_none_gives_the_default_or_none() -> None:
    made = build(None, default_factory=lambda: Engine(power=3))
    assert made is not None
    assert made.power == 3
    assert build(None, allow_none=True) is None
    with pytest.raises(ConfigurationError, match="engine is needed"):
        build(None)


@pytest.mark.parametrize(
    "spec",
    [Engine, "engine", f"{__name__}.Engine", {"type": "engine"}, {"type": Engine}],
    ids=["class", "name", "path", "dict", "dict-of-class"],
)
def test_class_name_path_and_dict_are_constructed_with_what_they_accept(spec: object) -> None:
    made = build(spec, optional_defaults={"power": 5, "wings": 2})
    assert made is not None
    assert made.power == 5


def test_arguments_of_a_dict_win_over_optional_ones() -> None:
    for kind in ("engine", Engine):
        made = build({"type": kind, "power": 7, "fuel": "wind"}, optional_defaults={"power": 5})
        assert made is not None
        assert (made.power, made.fuel) == (7, "wind")


def test_factory_is_called() -> None:
    made = build(lambda: Engine(power=4))
    assert made is not None
    assert made.power == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "engine", "wings": 2}, r"Engine\(power, fuel\) cannot be made.*wings"),
        ({"name": "nowhere"}, "without 'type'"),
        ("nowhere.Engine", "cannot be imported"),
        ("engin", "cannot be imported"),
        (f"{__name__}.REGISTRY", "is not a class"),
        ({"power": 1}, "without 'type'"),
        (7, "cannot be made from 7"),
    ],
)
def test_specification_that_leads_nowhere_is_one_clear_error(spec: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(spec)


@pytest.mark.parametrize(
    "spec",
    [Boat, lambda: Boat(), f"{__name__}.Boat", {"type": f"{__name__}.Boat"}, {"type": Boat}],
    ids=["class", "factory", "path", "dict", "dict-of-class"],
)
def test_something_else_is_a_type_error(spec: object) -> None:
    with pytest.raises(WrongComponent, match="must be a Engine") as raised:
        build(spec)
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, ValueError)


def test_default_that_can_be_called_is_called_only_where_it_is_needed() -> None:
    def power() -> int:
        calls.append(1)
        return 5

    calls: list[int] = []
    made = build("engine", optional_defaults={"power": power})
    assert made is not None
    assert made.power == 5
    build({"type": "engine", "power": 1}, optional_defaults={"power": power})
    assert calls == [1]


def test_dict_may_name_its_class_by_short_name_or_leave_it_to_the_default() -> None:
    named = build({"name": "engine", "power": 2})
    unnamed = build({"power": 3}, dict_requires_type=False, dict_default_cls=Engine)
    assert (named and named.power, unnamed and unnamed.power) == (2, 3)


def test_helpers_of_v03_are_where_they_were() -> None:
    helpers = import_module("agentlightning.trainer.init_utils")
    assert helpers.load_class(f"{__name__}.Engine") is Engine
    assert helpers.instantiate_component(Engine, {"power": 2}, {"fuel": "wind"}).fuel == "wind"
    made = helpers.instantiate_from_spec({"type": f"{__name__}.Engine", "power": 2}, spec_name="engine")
    assert made.power == 2
