from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, strategies as st

from agentlightning.inference.message import MessageStream, assistant_message
from agentlightning.inference.tool_calls import HermesParser

CALL = '<tool_call>{"name": "f", "arguments": {"é": "\\n"}}</tool_call>'
OTHER_ORDER = '<tool_call>{"arguments": {"a": 1}, "name": "g"}</tool_call>'
texts = st.lists(st.sampled_from([CALL, OTHER_ORDER, CALL[:-14], "\n", " ", "word", "é", "<tool_call>", "<"])).map(
    "".join
)


def merged(text: str, cuts: list[int], *, tools: bool) -> dict[str, Any]:
    stream = MessageStream(HermesParser() if tools else None)
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for number, (start, stop) in enumerate(pairwise(bounds), 2):
        for delta in stream.feed(text[start:stop], last=number == len(bounds)):
            if "content" in delta:
                message["content"] = (message["content"] or "") + delta["content"]
            for call in delta.get("tool_calls", []):
                calls = message.setdefault("tool_calls", [])
                if "id" in call:
                    assert call.pop("index") == len(calls)
                    calls.append(call)
                else:
                    assert call.pop("index") == len(calls) - 1
                    assert call.keys() == {"function"}
                    calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    assert stream.calls == len(message.get("tool_calls", []))
    return message


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [call["function"] for call in message.get("tool_calls", [])]
    return {**message, "tool_calls": calls}


@given(texts, st.lists(st.integers(0, 300)), st.booleans())
def test_deltas_put_together_are_the_message(text: str, cuts: list[int], tools: bool) -> None:
    whole = assistant_message(text, HermesParser() if tools else None)
    assert without_ids(merged(text, cuts, tools=tools)) == without_ids(whole)


@given(texts)
def test_text_without_calls_is_kept_to_the_last_space(text: str) -> None:
    message = assistant_message(text, HermesParser())
    assert assistant_message(text, None) == {"role": "assistant", "content": text}
    if "tool_calls" not in message:
        assert message == {"role": "assistant", "content": text}


def test_space_before_a_call_is_not_sent() -> None:
    stream = MessageStream(HermesParser())
    assert stream.feed("Looking.\n", last=False) == [{"content": "Looking."}]
    begun, arguments = stream.feed(f"\n{CALL}", last=False)
    assert begun["tool_calls"][0]["function"] == {"name": "f", "arguments": ""}
    assert arguments == {"tool_calls": [{"index": 0, "function": {"arguments": '{"é": "\\n"}'}}]}
    assert stream.feed("\n", last=True) == []


def test_an_empty_answer_has_empty_content() -> None:
    assert MessageStream(None).feed("", last=True) == [{"content": ""}]
