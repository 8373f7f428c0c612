from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from agentlightning.errors import InvalidResult
from agentlightning.litagent.command.reward import RewardLines, reward_from_file


def reward_of(*chunks: bytes) -> Any:
    lines = RewardLines()
    for chunk in chunks:
        lines.add(chunk)
    return lines.end()


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
        ('  5%\r100%\r{"reward": 1}\n', 1),
        ('{"reward": 1}\r100%', 1),
        ('\ufeff{"reward": 1}\n', 1),
        ('\x1b[32m{"reward": 1}\x1b[0m\n\x1b[?25h', 1),
        ("\x1b[1;32m0.25\x1b[0m\n\x1b[0m\n", 0.25),
        ('{"reward": 0}\n{"step": {"reward": 1}}\n', 0),
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
    assert reward_of(written.encode()) == reward


def test_a_last_line_that_should_have_been_a_reward_is_quoted() -> None:
    with pytest.raises(InvalidResult, match=r"last line is not JSON.*\{\"reward\": \}"):
        reward_of(b'words\n{"reward": }\n')


PARTS = st.sampled_from(
    ['{"reward": 0.5}', '{"reward": 1, "why": "x"}', "words", "0.25", '"reward"', "\n", "\r\n", "{", ""]
)


@given(st.lists(PARTS), st.sampled_from(["end", "2", '{"reward": 2}']), st.integers(1, 9))
def test_it_does_not_matter_in_which_pieces_a_reward_comes(parts: list[str], last: str, size: int) -> None:
    written = f"{''.join(parts)}\n{last}".encode()
    assert reward_of(*(written[at : at + size] for at in range(0, len(written), size))) == reward_of(written)


MEBIBYTE = 1 << 20
FLOODS = [
    b"x" * 5 * MEBIBYTE + b"\n",
    b"2\n" * MEBIBYTE,
    b"{}\n" * MEBIBYTE,
    b'{"rewards": "' + b"x" * 2 * MEBIBYTE + b'"}\n',
]


@pytest.mark.parametrize("flood", FLOODS, ids=["one-line", "numbers", "objects", "long-object"])
def test_a_reward_is_found_wherever_it_stands_in_a_flood(flood: bytes) -> None:
    chunks = [flood[at : at + 65536] for at in range(0, len(flood), 65536)]
    long = b'{"reward": 1, "why": "' + b"x" * 100_000 + b'"}\n'
    assert reward_of(*chunks, long) == 1
    assert reward_of(long, *chunks, b"end") == 1
    assert reward_of(*chunks, b'{"reward": 0}\n', long, *chunks, b"end") == 1


@pytest.mark.parametrize("at", [0, MEBIBYTE - 4, MEBIBYTE + 1, 3 * MEBIBYTE], ids=["start", "cut", "behind", "end"])
def test_a_line_with_a_reward_that_is_too_long_to_be_read_is_no_silence(at: int) -> None:
    space = b"x" * 3 * MEBIBYTE
    line = b'{"a": "' + space[:at] + b'", "reward": 1, "b": "' + space[at:] + b'"}\n'
    chunks = [line[place : place + 65536] for place in range(0, len(line), 65536)]
    with pytest.raises(InvalidResult, match="more than 1048576 bytes"):
        reward_of(b'{"reward": 0}\n', *chunks, b"words\n")
    assert reward_of(*chunks, b'{"reward": 0}\n') == 0


def test_a_flood_without_a_newline_takes_no_memory() -> None:
    lines = RewardLines()
    for _ in range(100):
        lines.add(b"{" + b"x" * 65536)
        assert sum(len(part) for part in vars(lines).values() if isinstance(part, bytearray)) <= 2 * MEBIBYTE


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
