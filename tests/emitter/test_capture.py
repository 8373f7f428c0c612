from __future__ import annotations

import itertools
import logging
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel

from agentlightning.emitter import operation
from agentlightning.emitter.capture import LIMIT, Capture
from agentlightning.tracer import OtelTracer
from agentlightning.types import Attributes
from agentlightning.types.attributes import check_attributes_sanity, flatten_attributes, sanitize_attributes

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=2)
    ),
    max_leaves=20,
)


def captured(value: object, redact: Callable[[str, Any], Any] | None = None) -> Attributes:
    capture = Capture(redact)
    capture.add("input.x", value)
    return capture.attributes


def total(attributes: Attributes) -> int:
    return sum(len(str(value).encode()) for value in attributes.values())


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(-9, 9) | st.text(max_size=5) | st.lists(st.text())))
def test_what_fits_is_kept_flat_and_whole(value: dict[str, object]) -> None:
    assert captured(value) == sanitize_attributes(flatten_attributes({"input.x": value}))


@settings(deadline=None)
@given(anything)
def test_whatever_is_captured_is_an_attribute(value: object) -> None:
    check_attributes_sanity(captured(value))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("ä" * LIMIT, id="text"),
        pytest.param("x" + "𝄞" * LIMIT, id="text cut through a character"),
        pytest.param(b"\x00" * 10 * LIMIT, id="bytes"),
        pytest.param(list(range(10 * LIMIT)), id="numbers"),
        pytest.param([{"a": number} for number in range(LIMIT)], id="mappings"),
        pytest.param({str(number): "x" for number in range(LIMIT)}, id="keys"),
        pytest.param({number: "x" for number in range(LIMIT)}, id="keys that are no texts"),
        pytest.param([["x" * 100] * 100] * 100, id="nested lists"),
    ],
)
def test_what_does_not_fit_is_cut_and_says_so(value: object) -> None:
    attributes = captured(value)
    assert total(attributes) <= LIMIT * 1.1
    assert any("… [" in str(kept) for kept in attributes.values())


def test_a_cut_text_says_how_much_is_missing_and_is_still_text() -> None:
    text = "x" + "𝄞" * LIMIT
    (kept,) = captured(text).values()
    head, _, note = str(kept).partition("… [")
    assert text.startswith(head)
    assert int(note.removesuffix(" bytes cut]")) == len(text.encode()) - len(head.encode())
    assert LIMIT - 4 < len(head.encode()) <= LIMIT


def test_values_left_out_are_counted() -> None:
    attributes = captured({"a": "x" * LIMIT, "b": 1, "c": [1, "x"]})
    assert attributes == {"input.x.a": "x" * LIMIT, "input.x.b": "… [3 values cut]"}


def test_a_value_that_contains_itself_or_is_very_deep_is_kept_as_text() -> None:
    own: list[object] = [1, "x"]
    own.append(own)
    assert "[...]" in str(captured(own)["input.x.2"])
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep, 1]
    assert total(captured(deep)) <= LIMIT + 100


class Broken(UserDict[str, int]):
    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no keys")


async def test_a_value_that_cannot_be_read_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    @operation
    def take(what: object, other: int) -> int:
        return other

    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        assert take(Broken(), 2) == 2
    (span,) = tracer.get_last_trace()
    assert span.attributes["agentlightning.operation.input.other"] == 2
    assert "could not be recorded whole" in caplog.text


async def test_the_tracer_redacts_every_input_and_output_of_its_operations() -> None:
    seen: list[str] = []

    def hide(key: str, value: Any) -> Any:
        seen.append(key)
        return "***" if key.endswith(("password", "output.token")) else value

    @operation
    def log_in(user: dict[str, str], *, password: str) -> dict[str, str]:
        return {"token": password, "name": user["name"]}

    tracer = OtelTracer()
    tracer.redact = hide
    async with tracer.trace_context("test"):
        log_in({"name": "me", "password": "secret"}, password="secret")
        with operation(propagate=False) as unsent:
            unsent.set_input(password="secret")
    (span,) = tracer.get_last_trace()
    assert "secret" not in str(span.attributes) + str(unsent.span().attributes)
    assert span.attributes["agentlightning.operation.output.name"] == "me"
    assert seen[:4] == ["input.user", "input.user.name", "input.user.password", "input.password"]


def test_a_redaction_that_fails_gives_nothing_away(caplog: pytest.LogCaptureFixture) -> None:
    def fail(key: str, value: Any) -> Any:
        raise ValueError(value)

    with caplog.at_level(logging.ERROR):
        attributes = captured({"password": "secret"}, fail)
    assert attributes == {"input.x": "[redaction raised ValueError]"}
    assert "input.x raised ValueError" in caplog.text
    assert "secret" not in caplog.text


@dataclass
class Login:
    user: str
    password: str


class LoginModel(BaseModel):
    user: str
    password: str


class LoginTuple(NamedTuple):
    user: str
    password: str


def mask(key: str, value: Any) -> Any:
    return "***" if key.endswith("password") else value


@pytest.mark.parametrize(
    "login",
    [
        Login("me", "secret"),
        LoginModel(user="me", password="secret"),
        LoginTuple("me", "secret"),
        {"user": "me", "password": "secret", 1: "one"},
    ],
    ids=["dataclass", "pydantic", "named tuple", "keys"],
)
def test_redaction_sees_the_fields_of_objects(login: object) -> None:
    own: list[object] = [login]
    own.append(own)
    attributes = captured([login, {1: login}, own], mask)
    assert "secret" not in str(attributes)
    assert attributes["input.x.0.user"] == attributes["input.x.1.1.user"] == attributes["input.x.2.0.user"] == "me"
    assert attributes["input.x.0.password"] == "***"


def test_redaction_lets_nothing_pass_that_is_too_deep_for_it() -> None:
    deep: object = {"password": "secret"}
    for _ in range(100):
        deep = [deep, 1]
    assert "secret" not in str(captured(deep, mask))
    assert "secret" not in str(captured({Hashable("secret")}, mask))


@dataclass(frozen=True)
class Hashable:
    password: str


def test_what_holds_no_values_is_not_searched_without_end() -> None:
    class Empty(list[object]):
        visits = 0

        def __iter__(self) -> Iterator[object]:
            Empty.visits += 1
            return super().__iter__()

    nest: object = Empty()
    for _ in range(22):
        nest = [nest, nest]
    assert "or more values cut]" in str(captured(nest))
    assert Empty.visits < LIMIT


def test_values_left_out_are_not_counted_without_end() -> None:
    class Endless(list[object]):
        def __iter__(self) -> Iterator[object]:
            return itertools.cycle([1, "x"])

    assert "or more values cut]" in str(captured(Endless([1, "x"])))
