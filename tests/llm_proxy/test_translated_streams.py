"""Laws of translation: a stream, cut anywhere, says what the whole answer says, and answers come back as they were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st

from agentlightning.errors import InvalidAnswer
from agentlightning.llm_proxy.dialects.call import Call
from agentlightning.llm_proxy.dialects.chat_stream import merge_chunks
from agentlightning.llm_proxy.dialects.memory import Memory
from agentlightning.llm_proxy.dialects.messages import MessagesCall
from agentlightning.llm_proxy.dialects.messages_reply import input_of
from agentlightning.llm_proxy.dialects.responses import ResponsesCall
from agentlightning.llm_proxy.reply import Reply
from agentlightning.llm_proxy.sse import EventSplitter, read_stream

Json = dict[str, Any]

ATTEMPT = ("r", "a")
TEXTS = st.text(st.characters(), min_size=1, max_size=6)  # halves of surrogate pairs, too
TOOL_PIECES = st.tuples(st.integers(0, 2), st.text(max_size=5))
ARGUMENTS = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2)
FINISH_REASONS = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])


def messages_call(memory: Memory | None = None, history: Sequence[Json] = ()) -> MessagesCall:
    messages = [{"role": "user", "content": "hi"}, *history]
    return MessagesCall({"model": "m", "max_tokens": 9, "messages": messages}, ATTEMPT, memory or Memory())


def responses_call(memory: Memory | None = None, history: Sequence[Json] = (), **more: Any) -> ResponsesCall:
    items = [{"role": "user", "content": "hi"}, *history]
    return ResponsesCall({"model": "m", "input": items, **more}, ATTEMPT, memory or Memory())


@st.composite
def tool_deltas(draw: st.DrawFn) -> list[Json]:
    """Pieces of some tool calls in any order; the first of each names the tool."""
    begun: set[int] = set()
    deltas: list[Json] = []
    for index, text in draw(st.lists(TOOL_PIECES, max_size=6)):
        call: Json = {"index": index, "function": {"arguments": text}}
        if index not in begun:
            call |= {
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": f"tool_{index}", "arguments": text},
            }
        begun.add(index)
        deltas.append({"tool_calls": [call]})
    return deltas


THOUGHTS = st.lists(TEXTS.map(lambda text: {"reasoning_content": text}), max_size=3)
SAYINGS = st.lists(TEXTS.map(lambda text: {"content": text}), max_size=3)
IN_ORDER = st.tuples(THOUGHTS, SAYINGS, tool_deltas()).map(lambda parts: [each for part in parts for each in part])
ANY_ORDER = st.tuples(THOUGHTS, SAYINGS, tool_deltas()).flatmap(
    lambda parts: st.permutations([*parts[0], *parts[1]]).map(lambda said: _woven(said, parts[2]))
)


def _woven(said: Sequence[Json], calls: Sequence[Json]) -> list[Json]:
    """The pieces of calls, whose order is theirs, between those of texts."""
    longest = max(len(said), len(calls))
    pairs = [(said[i : i + 1], calls[i : i + 1]) for i in range(longest)]
    return [each for pair in pairs for part in pair for each in part]


def chunks_of(deltas: Sequence[Json], finish_reason: str) -> list[Json]:
    head = {"id": "c-1", "created": 1, "model": "m"}
    choices: list[Json] = [
        {"index": 0, "delta": delta} for delta in [{"role": "assistant", "content": ""}, *deltas, {}]
    ]
    choices[-1]["finish_reason"] = finish_reason
    counted: Json = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
    return [*(head | {"choices": [choice]} for choice in choices), head | counted]


def stream_of(chunks: Sequence[Json]) -> bytes:
    return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"


def seen(call: Call, body: bytes, cuts: Sequence[int] = ()) -> bytes:
    """What a client sees of a stream that comes in pieces."""
    view, splitter, ends = call.view(), EventSplitter(), [*sorted(cuts), len(body)]
    out, start = b"", 0
    for end in ends:
        events = splitter.feed(body[start:end])
        out += view.of(events) if events else b""
        start = end
    return out + (view.of(splitter.rest) if splitter.rest else b"") + view.end()


def whole_of(call: Call, chunks: Sequence[Json]) -> Json:
    """What a client gets that does not stream."""
    return json.loads(call.answer(Reply(200, json.dumps(merge_chunks(chunks)).encode())).body)


def message_from(events: Sequence[Json]) -> Json:
    """The message that Messages' events make."""
    message: Json = {}
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                block, delta = message["content"][event["index"]], dict(event["delta"])
                del delta["type"]
                for key, text in delta.items():
                    block[key] = block.get(key, "") + text
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
            case _:
                pass
    for block in message["content"]:
        if block["type"] == "tool_use":
            block["input"] = input_of(block.pop("partial_json", ""))
    return message


@given(deltas=ANY_ORDER, finish_reason=FINISH_REASONS, data=st.data())
@pytest.mark.parametrize("make", [messages_call, responses_call])
def test_where_a_stream_is_cut_changes_nothing(
    make: Any, deltas: list[Json], finish_reason: str, data: st.DataObject
) -> None:
    body = stream_of(chunks_of(deltas, finish_reason))
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=12))
    assert seen(make(), body, cuts) == seen(make(), body)


@given(deltas=IN_ORDER, finish_reason=FINISH_REASONS)
def test_a_streamed_message_is_the_whole_one(deltas: list[Json], finish_reason: str) -> None:
    chunks = chunks_of(deltas, finish_reason)
    events = read_stream(seen(messages_call(), stream_of(chunks)))
    assert message_from(events) == whole_of(messages_call(), chunks)
    assert events[-1]["type"] == "message_stop"


@given(deltas=IN_ORDER, finish_reason=FINISH_REASONS)
def test_a_streamed_response_is_the_whole_one(deltas: list[Json], finish_reason: str) -> None:
    chunks = chunks_of(deltas, finish_reason)
    events = read_stream(seen(responses_call(), stream_of(chunks)))
    assert events[-1]["response"] == whole_of(responses_call(), chunks)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    texts: dict[int, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            texts[event["output_index"]] = texts.get(event["output_index"], "") + event["delta"]
    for index, item in enumerate(events[-1]["response"]["output"]):
        told = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert texts.get(index, "") == told


@given(deltas=ANY_ORDER, finish_reason=FINISH_REASONS)
def test_whatever_the_order_the_next_request_holds_the_answer_as_it_was(deltas: list[Json], finish_reason: str) -> None:
    chunks, memory = chunks_of(deltas, finish_reason), Memory()
    answered: Json = merge_chunks(chunks)["choices"][0]["message"]
    expected = {key: value for key, value in answered.items() if value not in ("", None)} | {
        "content": answered["content"] or None
    }
    events = read_stream(seen(responses_call(memory), stream_of(chunks)))
    output = events[-1]["response"]["output"]
    going_on = ResponsesCall({"model": "m", "input": "go", "previous_response_id": "c-1"}, ATTEMPT, memory)
    assert going_on.request["messages"][1] == expected
    if output:
        assert responses_call(history=output).request["messages"][1] == expected
    message = message_from(read_stream(seen(messages_call(memory), stream_of(chunks))))
    if message["content"]:
        history = [{"role": "assistant", "content": message["content"]}, {"role": "user", "content": "go"}]
        assert messages_call(memory, history).request["messages"][1] == expected


@st.composite
def interleaved_calls(draw: st.DrawFn, indices: st.SearchStrategy[int] | None = None) -> tuple[list[Json], list[Json]]:
    """Some tool calls, and pieces of them that come in turns; with `indices`, one call after another under any."""
    calls: list[Json] = [
        {"id": f"call_{i}", "type": "function", "function": {"name": f"tool_{i}", "arguments": json.dumps(arguments)}}
        for i, arguments in enumerate(draw(st.lists(ARGUMENTS, min_size=1, max_size=3)))
    ]
    waiting: list[list[Json]] = []
    for i, call in enumerate(calls):
        text, index = call["function"]["arguments"], i if indices is None else draw(indices)
        cut = draw(st.integers(0, len(text)))
        begun = {**call, "index": index, "function": {"name": f"tool_{i}", "arguments": ""}}
        rest = [
            {"index": index, "id": f"call_{i}", "function": {"arguments": each}} for each in (text[:cut], text[cut:])
        ]
        waiting.append([begun, *rest])
    deltas: list[Json] = []
    while any(waiting):
        turns = [pieces for pieces in waiting if pieces]
        deltas.append({"tool_calls": [(turns[0] if indices is not None else draw(st.sampled_from(turns))).pop(0)]})
    return calls, deltas


INTERLEAVED = interleaved_calls() | interleaved_calls(st.integers(0, 1))


@given(sent=INTERLEAVED, finish_reason=FINISH_REASONS)
def test_calls_that_come_in_turns_keep_apart(sent: tuple[list[Json], list[Json]], finish_reason: str) -> None:
    calls, deltas = sent
    chunks = chunks_of(deltas, finish_reason)
    assert merge_chunks(chunks)["choices"][0]["message"]["tool_calls"] == sorted_by_begin(calls, deltas)
    message = message_from(read_stream(seen(messages_call(), stream_of(chunks))))
    assert message == whole_of(messages_call(), chunks)
    said = {block["id"]: block["input"] for block in message["content"]}
    assert said == {call["id"]: json.loads(call["function"]["arguments"]) for call in calls}
    response = read_stream(seen(responses_call(), stream_of(chunks)))[-1]["response"]
    assert {item["call_id"]: item["arguments"] for item in response["output"]} == {
        call["id"]: call["function"]["arguments"] for call in calls
    }


def sorted_by_begin(calls: Sequence[Json], deltas: Sequence[Json]) -> list[Json]:
    names = list(dict.fromkeys(delta["tool_calls"][0]["id"] for delta in deltas))
    return sorted(calls, key=lambda call: names.index(call["id"]))


@given(sent=INTERLEAVED, said=SAYINGS, finish_reason=FINISH_REASONS)
def test_nothing_is_added_to_what_is_closed(
    sent: tuple[list[Json], list[Json]], said: list[Json], finish_reason: str
) -> None:
    body = stream_of(chunks_of(_woven(said, sent[1]), finish_reason))
    opened: set[int] = set()
    for event in read_stream(seen(messages_call(), body)):
        match event["type"]:
            case "content_block_start":
                opened.add(event["index"])
            case "content_block_delta":
                assert event["index"] in opened
            case "content_block_stop":
                opened.remove(event["index"])
            case _:
                pass
    assert not opened
    *events, last = read_stream(seen(responses_call(), body))
    items: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "response.output_item.added":
                items[event["output_index"]] = ""
            case "response.function_call_arguments.delta":
                items[event["output_index"]] += event["delta"]
            case "response.output_item.done":
                streamed = items.pop(event["output_index"])
                assert event["item"] == last["response"]["output"][event["output_index"]]
                assert streamed == event["item"].get("arguments", "")
            case _:
                pass
    assert not items


@given(values=st.lists(ARGUMENTS, min_size=1, max_size=3))
def test_calls_that_come_one_after_the_other_are_closed_in_between(values: list[Json]) -> None:
    """Some clients look for what an event closes at the end of what they have."""
    deltas = [
        {"tool_calls": [{"index": i, "id": str(i), "function": {"name": "f", "arguments": json.dumps(value)}}]}
        for i, value in enumerate(values)
    ]
    events = read_stream(seen(messages_call(), stream_of(chunks_of(deltas, "tool_calls"))))
    steps = [event["type"] for event in events if event["type"].startswith("content_block_s")]
    assert steps == ["content_block_start", "content_block_stop"] * len(values)


@given(value=ARGUMENTS, indent=st.integers(0, 3))
def test_arguments_return_as_the_model_wrote_them(value: Json, indent: int) -> None:
    written, memory = json.dumps(value, indent=indent), Memory()
    delta = {"tool_calls": [{"index": 0, "id": "call", "function": {"name": "tool", "arguments": written}}]}
    block = whole_of(messages_call(memory), chunks_of([delta], "tool_calls"))["content"][0]
    assert block["input"] == value
    for changed in (False, True):
        sent = block | ({"input": {"changed": True, **value}} if changed else {})
        (call,) = messages_call(memory, [{"role": "assistant", "content": [sent]}]).request["messages"][1]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == sent["input"]
        assert (call["function"]["arguments"] == written) is not changed


def test_parts_that_nobody_knows_survive_both_ways() -> None:
    content = [{"type": "text", "text": "see\n"}, {"type": "chart", "points": [1]}, {"type": "text", "text": "so"}]
    chunks = chunks_of([{"content": [part]} for part in content], "stop")
    chunks[0]["choices"][0]["delta"] = {"role": "assistant"}
    message = whole_of(messages_call(), chunks)
    assert message["content"] == content
    assert message_from(read_stream(seen(messages_call(), stream_of(chunks)))) == message
    expected = {"role": "assistant", "content": content}
    going_on = messages_call(
        history=[{"role": "assistant", "content": message["content"]}, {"role": "user", "content": ""}]
    )
    assert going_on.request["messages"][1] == expected
    response = whole_of(responses_call(), chunks)
    assert read_stream(seen(responses_call(), stream_of(chunks)))[-1]["response"] == response
    assert responses_call(history=response["output"]).request["messages"][1] == expected


@pytest.mark.parametrize("make", [messages_call, responses_call])
def test_a_stream_that_ends_too_early_says_so(make: Any) -> None:
    chunks = chunks_of([{"content": "a"}], "stop")[:2]
    events = read_stream(seen(make(), b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks)))
    assert events[-1]["type"] == "error"
    assert "before the answer" in events[-1]["error"]["message"]


@pytest.mark.parametrize("make", [messages_call, responses_call])
def test_an_answer_that_is_whole_ends_well_though_the_connection_does_not(make: Any) -> None:
    chunks = chunks_of([{"content": "a"}], "stop")[:-1]
    for cut, last in ((len(chunks), ("message_stop", "response.completed")), (len(chunks) - 1, ("error",))):
        view = make().view()
        seen_before = view.of(b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks[:cut]))
        events = read_stream(seen_before + view.error("broke off", "backend_unreachable"))
        assert events[-1]["type"] in last


@pytest.mark.parametrize("make", [messages_call, responses_call])
def test_a_backend_that_fails_in_the_midst_is_quoted_and_nothing_follows(make: Any) -> None:
    chunks = chunks_of([{"content": "a"}], "stop")
    body = stream_of([*chunks[:2], {"error": {"message": "out of memory"}}, *chunks[2:]])
    events = read_stream(seen(make(), body))
    assert [event["type"] for event in events].count("error") == 1
    assert events[-1]["error"]["message"] == "out of memory"


@pytest.mark.parametrize("make", [messages_call, responses_call])
def test_garbage_is_no_answer(make: Any) -> None:
    with pytest.raises(InvalidAnswer, match="none of a chat"):
        make().view().of(b'data: {"choices": [7]}\n\n')
    with pytest.raises(InvalidAnswer, match="none of a chat"):
        make().answer(Reply(200, b'{"choices": []}'))
