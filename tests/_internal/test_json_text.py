"""JSON read quickly is read as `json` reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from agentlightning._internal.json_text import read_json, write_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=20,
)


def outcome(read: Any, text: str | bytes) -> str:
    """Return what comes of a text, in words: nan equals nothing."""
    try:
        return repr(read(text))
    except ValueError:
        return "ValueError"


@given(VALUES, st.booleans())
def test_it_reads_what_json_writes(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert repr(read_json(text)) == repr(value)
    data = text.encode("utf-8", "surrogatepass")
    assert repr(read_json(data)) == repr(value)


TEXTS = (b"", b"{", b"[1,]", b"nul", b'"\xff"', b'"\\ud800"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf{}", b"1e999", b"-0")
MORE = ("NaN", "-Infinity", '{"a":1,"a":2}', "[" * 500 + "]" * 500, "1" * 5000, "1.0", "'a'", " 1 ", "1 2")


@pytest.mark.parametrize("text", [*TEXTS, *MORE], ids=range(len(TEXTS) + len(MORE)))
def test_it_accepts_and_refuses_what_json_does(text: str | bytes) -> None:
    assert outcome(read_json, text) == outcome(json.loads, text)


def test_what_is_nested_too_deeply_is_said_as_json_says_it() -> None:
    with pytest.raises(RecursionError):
        read_json(b"[" * 100_000)


@given(VALUES)
def test_what_it_writes_is_read_as_it_was(value: Any) -> None:
    assert repr(read_json(write_json(value))) == repr(value)


def test_it_writes_whatever_json_reads() -> None:
    deep = json.loads("[" * 500 + "]" * 500)
    assert json.loads(write_json(deep)) == deep
