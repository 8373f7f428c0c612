from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, strategies as st

from agentlightning.errors import ConfigurationError
from agentlightning.inference import ArgumentsPart, CallBegun, ToolCall, register_tool_parser
from agentlightning.inference.tool_calls import HermesParser, find_tool_parser

plain = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]))
names = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), min_size=1)
calls = st.builds(ToolCall, names, st.dictionaries(names, plain | st.integers() | st.none()))


HEAD = '{"name": "f", "arguments": '
shreds = st.lists(
    st.sampled_from(
        [
            "<tool_call>",
            "</tool_call>",
            '{"name": "f"}',
            HEAD,
            '{"a": "}<\\""}',
            "}",
            '"',
            "\\",
            "<tool",
            "a<",
            " \n",
            "{",
        ]
    )
)


def parse(pieces: Iterable[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text, and the calls by name and JSON."""
    parser = HermesParser()
    content, calls = "", list[tuple[str, str]]()
    for each in [each for piece in pieces for each in parser.feed(piece)] + parser.close():
        match each:
            case str():
                content += each
            case ToolCall():
                calls.append((each.name, json.dumps(each.arguments)))
            case CallBegun():
                calls.append((each.name, ""))
            case ArgumentsPart():
                calls.append((calls[-1][0], calls.pop()[1] + each.text))
    return content, calls


@given(st.lists(st.tuples(plain, calls)), plain)
def test_what_is_written_is_read(pieces: list[tuple[str, ToolCall]], rest: str) -> None:
    text = "".join(f"{before}<tool_call>\n{json.dumps(call._asdict())}\n</tool_call>" for before, call in pieces) + rest
    content = "".join(before for before, _ in pieces) + rest
    expected = content, [(call.name, json.dumps(call.arguments)) for _, call in pieces]
    assert parse([text]) == parse(text) == expected


@given(shreds, st.data())
def test_pieces_make_no_difference(shreds: list[str], data: st.DataObject) -> None:
    text = "".join(shreds)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(pieces) == parse([text])


def test_text_is_passed_on_unless_it_may_be_a_call() -> None:
    parser = HermesParser()
    assert parser.feed("see <b> and <tool_") == ["see <b> and "]
    assert parser.feed("box>, <tool_call>") == ["<tool_box>, "]
    assert parser.feed('{"name": "f"}</tool_call> ') == [ToolCall("f", {}), " "]


def test_arguments_are_passed_on_as_they_come() -> None:
    parser = HermesParser()
    assert parser.feed('<tool_call>\n{"name": "f", "argu') == []
    assert parser.feed('ments": {"a": "}') == [CallBegun("f"), ArgumentsPart('{"a": "}')]
    assert parser.feed(" <") == [ArgumentsPart(" ")]
    assert parser.feed("/tool") == []
    assert parser.feed('box"}}\n') == [ArgumentsPart('</toolbox"}')]
    assert parser.feed("</tool_call>.") == ["."]


@pytest.mark.parametrize(
    "text",
    [
        "no call",
        '<tool_call>{"name": "f", "arguments": ',
        '{"name": "f"}</tool_call>',
        "<tool_call>not json</tool_call>",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
    ],
)
def test_malformed_calls_stay_content(text: str) -> None:
    assert parse([text]) == parse(text) == (text, [])


def test_a_malformed_call_does_not_hide_a_good_one() -> None:
    text = 'a<tool_call>{</tool_call>b<tool_call>{"name": "f"}</tool_call>c'
    assert parse([text]) == ("a<tool_call>{</tool_call>bc", [("f", "{}")])


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('<tool_call>{"name": "f", "arguments": {"a": 1', '{"a": 1'),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', '{"a": 1}'),
        ('<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>', "{a: 1}"),
        ('<tool_call>{"name": "f", "arguments": {"a": "1}}</tool_call>', '{"a": "1}}'),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}, "id": {}}</tool_call>', '{"a": 1}'),
    ],
    ids=["cut", "unclosed", "unquoted", "endless string", "more keys"],
)
def test_a_call_whose_arguments_began_stays_one(text: str, arguments: str) -> None:
    assert parse([text]) == parse(text) == ("", [("f", arguments)])


def test_a_name_that_is_none_begins_no_call() -> None:
    text = '<tool_call>{"name": "a\nb", "arguments": {}}</tool_call>'
    assert parse([text]) == parse(text) == (text, [])


def test_parsers_are_found_by_name() -> None:
    class Own(HermesParser):
        pass

    register_tool_parser("own", Own)
    assert find_tool_parser("own") is Own
    with pytest.raises(ConfigurationError, match="hermes"):
        find_tool_parser("missing")
