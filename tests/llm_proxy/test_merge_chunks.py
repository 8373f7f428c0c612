"""Any way to stream a message gives the message."""

from __future__ import annotations

from typing import Any

from hypothesis import given, strategies as st

from agentlightning.llm_proxy.dialects.chat_stream import merge_chunks, without_usage_chunk

Json = dict[str, Any]

messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.text(min_size=1), "reasoning_content": st.text(min_size=1)},
    optional={
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {
                    "id": st.text(min_size=1),
                    "type": st.just("function"),
                    "function": st.fixed_dictionaries({"name": st.text(min_size=1), "arguments": st.text()}),
                }
            ),
            min_size=1,
            max_size=3,
        )
    },
)


def deltas_of(message: Json, draw: st.DrawFn) -> list[Json]:
    deltas: list[Json] = [{"role": message["role"], "content": None, "tool_calls": None}]
    for key in ("reasoning_content", "content"):
        deltas += [{key: piece} for piece in pieces_of(message[key], draw)]
    for index, call in enumerate(message.get("tool_calls", ())):
        function = {"name": call["function"]["name"], "arguments": ""}
        deltas.append({"tool_calls": [{**call, "index": index, "function": function}]})
        for piece in pieces_of(call["function"]["arguments"], draw):
            # The id stands in each chunk, as some backends have it.
            deltas.append({"tool_calls": [{"index": index, "id": call["id"], "function": {"arguments": piece}}]})
    return deltas


def pieces_of(text: str, draw: st.DrawFn) -> list[str]:
    middle = draw(st.integers(0, len(text)))
    return [text[:middle], text[middle:]]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Json], list[Json]]:
    """Messages, and the chunks of a stream that sends them side by side."""
    sent = draw(st.lists(messages, min_size=1, max_size=3))
    waiting = [deltas_of(message, draw) for message in sent]
    chunks: list[Json] = []
    while any(waiting):
        index = draw(st.sampled_from([index for index, deltas in enumerate(waiting) if deltas]))
        piece = {"index": index, "delta": waiting[index].pop(0), "token_ids": [len(chunks)], "finish_reason": None}
        if not waiting[index]:
            piece["finish_reason"] = "stop"
        chunks.append({"id": "c", "usage": None, "choices": [piece]})
    return sent, chunks


@given(streams())
def test_the_pieces_of_messages_give_the_messages(stream: tuple[list[Json], list[Json]]) -> None:
    sent, chunks = stream
    usage = {"completion_tokens": len(chunks)}
    reply = merge_chunks([*chunks, {"id": "other", "choices": [], "usage": usage}])
    assert [choice["message"] for choice in reply["choices"]] == [{"tool_calls": None} | message for message in sent]
    assert all(choice["finish_reason"] == "stop" for choice in reply["choices"])
    assert sorted(token for choice in reply["choices"] for token in choice["token_ids"]) == list(range(len(chunks)))
    assert (reply["id"], reply["usage"]) == ("c", usage)


def test_merging_leaves_the_chunks_as_they_are() -> None:
    call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{"}}
    more = {"index": 0, "function": {"arguments": "}"}}
    chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [each]}}]} for each in (call, more)]
    merge_chunks(chunks)
    assert call == {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{"}}


def test_only_the_usage_chunk_is_left_out() -> None:
    kept = [
        b'data: {"choices": [], "prompt_filter_results": []}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\"choices\\": []"}}],"usage":{"n":1}}\n\n',
        b'data: not json "choices": []\n\n',
        b"data: [DONE]\n\n",
    ]
    usage = b'data: {"choices" : [ ], "usage": {"total_tokens": 1}}\r\n\r\n'
    assert without_usage_chunk(b"".join([kept[0], usage, *kept[1:]])) == b"".join(kept)
