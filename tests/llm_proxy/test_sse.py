"""However a stream is cut into pieces, its events are the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given, strategies as st

from agentlightning.errors import InvalidAnswer
from agentlightning.llm_proxy.sse import EventSplitter, read_slices, read_stream, split_events

events = st.sampled_from(
    [b'data: {"a": 1}\n\n', b'data: {"b": "\\n\\n"}\r\n\r\n', b": comment\n\n", b"id: 7\ndata: {}\n\n", b"\n"]
)


def pieces_of(body: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[left:right] for left, right in itertools.pairwise(edges)]


@given(st.lists(events, max_size=6), st.binary(max_size=5), st.lists(st.integers(0, 200), max_size=8))
@example([b"\n", b"data: {}\n\n"], b"\n", [1, 2, 3])
def test_any_pieces_give_the_same_bytes_and_whole_events_only(sent: list[bytes], tail: bytes, cuts: list[int]) -> None:
    body = b"".join(sent) + tail
    splitter, returned = EventSplitter(), b""
    for piece in pieces_of(body, cuts):
        complete = splitter.feed(piece)
        assert not complete or complete.endswith((b"\n\n", b"\n\r\n"))
        assert b"".join(split_events(complete)) == complete
        returned += complete
    assert returned + splitter.rest == body
    assert b"\n\n" not in splitter.rest


@given(
    st.lists(st.dictionaries(st.text(max_size=4), st.integers(), max_size=2), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_is_read(objects: list[dict[str, int]], end: str) -> None:
    body = "".join(f": note{end}event: x{end}data: {json.dumps(each)}{end}{end}" for each in objects)
    assert read_stream(f"{body}data: [DONE]{end}{end}".encode()) == objects


def test_data_may_stand_on_several_lines() -> None:
    assert read_stream(b'data: {"a":\ndata: 1}\n\n') == [{"a": 1}]


def test_the_last_event_counts_if_it_was_not_cut() -> None:
    assert read_stream(b'data: {"a": 1}\n\ndata: {"b": 2}') == [{"a": 1}, {"b": 2}]
    assert read_stream(b'data: {"a": 1}\n\ndata: {"b": ') == [{"a": 1}]


@pytest.mark.parametrize("data", [b"7", b"{", b"[1]"])
def test_an_event_that_holds_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_stream(b"data: " + data + b"\n\ndata: {}\n\n")


def test_a_huge_event_in_many_pieces_is_put_together_once() -> None:
    """This takes many minutes where every piece copies all those before it."""
    splitter, piece = EventSplitter(), b"x" * 100
    for _ in range(200_000):
        assert splitter.feed(piece) == b""
    assert len(splitter.feed(b"\n\nrest")) == 20_000_002
    assert splitter.rest == b"rest"


def test_an_event_without_end_is_refused() -> None:
    splitter = EventSplitter(largest=1000)
    for _ in range(100):
        assert splitter.feed(b"data: {}\n\n" * 100)  # many small ones are no large one
    splitter.feed(b"x" * 1000)
    with pytest.raises(InvalidAnswer, match="more than 1000 bytes"):
        splitter.feed(b"x")


def test_slices_hold_the_same_objects() -> None:
    objects = [{"n": number, "text": "x" * (number % 200)} for number in range(5000)]
    body = "".join(f"data: {json.dumps(each)}\n\n" for each in objects).encode()
    slices = list(read_slices(body))
    assert [each for part in slices for each in part] == objects
    assert max(map(len, slices)) < 3000
