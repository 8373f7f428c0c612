"""Task inputs as JSON values."""

import dataclasses
import datetime
import json
from collections import OrderedDict
from enum import Enum, IntEnum, StrEnum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel

from agentlightning.errors import InvalidValue
from agentlightning.types import normalize_task_input

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
LOOSE = st.recursive(
    SCALARS | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


class Model(BaseModel):
    when: datetime.date
    parts: tuple[int, ...]


@dataclasses.dataclass
class Point:
    x: int
    inner: Any = None


def scalar(value: Any) -> Any:
    """A stand-in for a numpy scalar: shape `()` and `item()`."""
    return SimpleNamespace(shape=(), item=lambda: value)


@given(JSON)
def test_json_values_are_fixed_points(value: Any) -> None:
    normal = normalize_task_input(value)
    assert normal == value
    assert json.dumps(normal) == json.dumps(value)


@given(LOOSE)
def test_normal_values_are_json_and_stay_as_they_are(value: Any) -> None:
    normal = normalize_task_input(value)
    assert json.loads(json.dumps(normal)) == normal
    assert normalize_task_input(normal) == normal


@given(st.lists(JSON, min_size=1))
def test_the_result_shares_no_container_with_the_value(value: list[Any]) -> None:
    copy = json.loads(json.dumps(value))
    normalize_task_input(value).clear()
    assert value == copy


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        (Model(when=datetime.date(2026, 1, 2), parts=(1, 2)), {"when": "2026-01-02", "parts": [1, 2]}),
        (Point(1, Point(2)), {"x": 1, "inner": {"x": 2, "inner": None}}),
        (datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC), "2026-01-02T03:04:00+00:00"),
        (OrderedDict(a=(1, 2)), {"a": [1, 2]}),
        (range(3), [0, 1, 2]),
        ([Colour.RED, Level.HIGH, Word.YES], ["red", 3, "yes"]),
        (scalar(1.5), 1.5),
    ],
)
def test_objects_with_an_obvious_json_form_take_it(value: Any, normal: Any) -> None:
    assert normalize_task_input(value) == normal
    assert json.dumps(normalize_task_input(value)) == json.dumps(normal)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (float("nan"), "input"),
        ({"a": [0, float("inf")]}, "input.a[1]"),
        ([b"bytes"], "input[0]"),
        ({"a": {1: 2}}, "input.a"),
        (Point(1, object()), "input.inner"),
        ({1, 2}, "input"),
        (scalar(float("nan")), "input"),
        (Point, "input"),
    ],
)
def test_what_has_no_json_form_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(InvalidValue) as refusal:
        normalize_task_input(value)
    assert str(refusal.value).startswith(f"{path} ")
