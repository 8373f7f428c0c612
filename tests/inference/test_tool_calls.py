from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from agentlightning.errors import ConfigurationError
from agentlightning.inference import ParsedText, ToolCall, register_tool_parser
from agentlightning.inference.tool_calls import find_tool_parser, parse_hermes

plain = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]))
names = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), min_size=1)
calls = st.builds(ToolCall, names, st.dictionaries(names, plain | st.integers() | st.none()))


@given(st.lists(st.tuples(plain, calls)), plain)
def test_what_is_written_is_read(pieces: list[tuple[str, ToolCall]], rest: str) -> None:
    text = "".join(f"{before}<tool_call>\n{json.dumps(call._asdict())}\n</tool_call>" for before, call in pieces) + rest
    content = "".join(before for before, _ in pieces) + rest
    assert parse_hermes(text) == ParsedText(content, [call for _, call in pieces])


@pytest.mark.parametrize(
    "text",
    [
        "no call",
        '<tool_call>{"name": "f", "arguments": {}}',
        '{"name": "f"}</tool_call>',
        "<tool_call>not json</tool_call>",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
    ],
)
def test_malformed_calls_stay_content(text: str) -> None:
    assert parse_hermes(text) == ParsedText(text, [])


def test_a_malformed_call_does_not_hide_a_good_one() -> None:
    text = 'a<tool_call>{</tool_call>b<tool_call>{"name": "f"}</tool_call>c'
    assert parse_hermes(text) == ParsedText("a<tool_call>{</tool_call>bc", [ToolCall("f", {})])


def test_parsers_are_found_by_name() -> None:
    def parse_nothing(text: str) -> ParsedText:
        return ParsedText(text, [])

    register_tool_parser("nothing", parse_nothing)
    assert find_tool_parser("nothing") is parse_nothing
    with pytest.raises(ConfigurationError, match="hermes"):
        find_tool_parser("missing")
