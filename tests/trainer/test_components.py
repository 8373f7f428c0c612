from __future__ import annotations

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.trainer import build_component


class Engine:
    def __init__(self, power: int = 1, fuel: str = "none") -> None:
        self.power = power
        self.fuel = fuel


class Boat:
    pass


REGISTRY = {"engine": f"{__name__}.Engine"}


def build(spec: object, **options: object) -> Engine | None:
    return build_component(spec, expected_type=Engine, name="engine", registry=REGISTRY, **options)  # type: ignore[arg-type]


def test_instance_is_taken_as_it_is() -> None:
    engine = Engine(power=9)
    assert build(engine, optional_arguments={"power": 2}) is engine
    assert engine.power == 9


def test_none_gives_the_default_or_none() -> None:
    made = build(None, default=lambda: Engine(power=3))
    assert made is not None
    assert made.power == 3
    assert build(None) is None


@pytest.mark.parametrize("spec", [Engine, "engine", f"{__name__}.Engine", {"type": "engine"}])
def test_class_name_path_and_dict_are_constructed_with_what_they_accept(spec: object) -> None:
    made = build(spec, optional_arguments={"power": 5, "wings": 2})
    assert made is not None
    assert made.power == 5


def test_arguments_of_a_dict_win_over_optional_ones() -> None:
    made = build({"type": "engine", "power": 7, "fuel": "wind"}, optional_arguments={"power": 5})
    assert made is not None
    assert (made.power, made.fuel) == (7, "wind")


def test_factory_is_called() -> None:
    made = build(lambda: Engine(power=4))
    assert made is not None
    assert made.power == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Boat, "must be a Engine"),
        (lambda: Boat(), "must be a Engine"),
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
