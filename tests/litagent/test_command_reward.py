from __future__ import annotations

from typing import Any

import pytest

from agentlightning.errors import InvalidResult
from agentlightning.litagent.command.reward import reward_from_file, reward_from_lines


@pytest.mark.parametrize(
    ("written", "reward"),
    [
        ('{"reward": 0.5}', 0.5),
        ('some words\n{"reward": 1, "answer": "b"}\n', 1),
        ('{"reward": 1}\n{"reward": 0}\n\n  \n', 0),
        ('{"reward": 1}\nDone.\n', 1),
        ('{"reward": 1}\n{"usage": 3}\n', 1),
        ('{"reward": {"style": 0.5, "truth": 1}}', {"style": 0.5, "truth": 1}),
        ('{"reward": null}', None),
        ('{"reward": 1}\r\n', 1),
        ("0.25", 0.25),
        ("-3\n", -3),
        ("0.25\nDone.\n", None),
        ('{"reward": 1}\n2\nDone.\n', 1),
        ("true", None),
        ('"0.5"', None),
        ("[0.5]", None),
        ("", None),
        ('{"reward": 1\nDone.', None),
        ("{broken}", None),
        ('{"id": 1}{"event_type": "reward", "data": {"value": 1}}', None),
        ("[" * 10_000, None),
    ],
    ids=lambda value: "deep" if isinstance(value, str) and len(value) > 100 else repr(value),
)
def test_the_last_line_that_is_a_reward_counts(written: str, reward: Any) -> None:
    assert reward_from_lines(written.split("\n")) == reward


def test_a_last_line_that_should_have_been_a_reward_is_quoted() -> None:
    with pytest.raises(InvalidResult, match=r"last line is not JSON.*\{\"reward\": \}"):
        reward_from_lines(["words", '{"reward": }', ""])


@pytest.mark.parametrize(
    ("text", "reward"), [("0.5", 0.5), ('{"reward": 1}\n', 1), ('{\n "reward": {"a": 1}\n}', {"a": 1})]
)
def test_a_result_file_holds_a_number_or_an_object(text: str, reward: Any) -> None:
    assert reward_from_file(text) == reward


@pytest.mark.parametrize("text", ["", "{", "good", "[1]", "true", "null", '{"score": 1}', '"1"'])
def test_any_other_result_file_is_refused_with_what_it_holds(text: str) -> None:
    with pytest.raises(InvalidResult, match=r"result file.*: '") as caught:
        reward_from_file(text)
    assert repr(text) in str(caught.value)
