"""What is appended is read again, also after a cut at any byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from agentlightning.llm_proxy.exchange import Exchange, read_exchanges
from agentlightning.llm_proxy.journal import Journal

exchanges = st.builds(
    Exchange,
    rollout_id=st.text(),
    attempt_id=st.text(),
    trace_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    path=st.text(),
    start_ns=st.integers(0, 2**62),
    end_ns=st.integers(0, 2**62),
    status=st.integers(200, 599),
    request=st.binary(),
    response=st.binary(),
    streamed=st.booleans(),
    first_byte_ns=st.none() | st.integers(0, 2**62),
    broken=st.none() | st.text(),
    asked=st.binary(),
    backend=st.none() | st.text(),
    retries=st.integers(0, 9),
    request_id=st.none() | st.text(),
    backend_request_id=st.none() | st.text(),
    supersedes=st.none() | st.text(),
)


def make_exchange(response: bytes = b"") -> Exchange:
    return Exchange(
        rollout_id="r",
        attempt_id="a",
        trace_id="0" * 32,
        path="/chat/completions",
        start_ns=1,
        end_ns=2,
        status=200,
        request=b"{}",
        response=response,
    )


@given(st.lists(exchanges, max_size=4), st.data())
def test_a_cut_loses_only_the_record_it_hits(written: list[Exchange], data: st.DataObject) -> None:
    records = [exchange.to_bytes() for exchange in written]
    whole = b"".join(records)
    cut = data.draw(st.integers(0, len(whole)))
    complete = sum(1 for i in range(len(records)) if sum(map(len, records[: i + 1])) <= cut)
    assert list(read_exchanges(whole[:cut])) == written[:complete]


@given(st.lists(exchanges, max_size=2), st.binary())
@example([], b"{}\n")
@example([], b'{"sizes": [-20, 0]}\n')
@example([], b'{"sizes": 2}\n')
@example([], b"[" * 100_000 + b"\n")
@example([], b"\xff\n")
def test_what_is_no_record_is_a_value_error_and_nothing_else(written: list[Exchange], rest: bytes) -> None:
    read = read_exchanges(b"".join(exchange.to_bytes() for exchange in written) + rest)
    assert [next(read) for _ in written] == written
    if b"\n" in rest:
        with pytest.raises(ValueError, match="byte"):
            list(read)
    else:
        assert list(read) == []


def test_sealed_segments_come_once_and_go_when_deleted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new")
    assert journal.seal() == []
    journal.append(make_exchange(b"1"))
    journal.append(make_exchange(b"2"))
    (segment,) = journal.seal()
    assert [exchange.response for exchange in segment.read()] == [b"1", b"2"]
    assert journal.seal() == []
    journal.delete(segment)
    assert list((tmp_path / "new").iterdir()) == []


def test_large_segments_end_by_themselves_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(4):
        journal.append(make_exchange(bytes([number]) * 600_000))
    segments = journal.seal()
    assert len(segments) == 2
    assert [exchange.response[0] for segment in segments for exchange in segment.read()] == [0, 1, 2, 3]


def test_the_next_journal_finds_what_was_left(tmp_path: Path) -> None:
    Journal(tmp_path).append(make_exchange(b"left"))
    (segment,) = Journal(tmp_path).seal()
    assert segment.read() == [make_exchange(b"left")]


def test_a_full_journal_takes_no_more_until_something_left(tmp_path: Path) -> None:
    record = len(make_exchange(b"x").to_bytes())
    journal = Journal(tmp_path, limit=3 * record)
    for _ in range(2):
        journal.append(make_exchange(b"x"))
    (first,) = journal.seal()
    journal.append(make_exchange(b"x"))
    assert journal.size == sum(path.stat().st_size for path in tmp_path.iterdir()) == 3 * record
    with pytest.raises(OSError, match="is full"):
        journal.append(make_exchange(b""))
    journal.delete(first)
    assert journal.size == record
    journal.append(make_exchange(b"x"))
    assert sum(len(segment.read()) for segment in journal.seal()) == 2


def test_what_was_left_counts(tmp_path: Path) -> None:
    Journal(tmp_path).append(make_exchange(b"left"))
    journal = Journal(tmp_path, limit=1)
    assert journal.size == len(make_exchange(b"left").to_bytes())
    (segment,) = journal.seal()
    journal.set_aside(segment)
    assert journal.size == 0
