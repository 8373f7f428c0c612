"""Repetitions are told from further samples, whatever else the attempt asks."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from agentlightning.llm_proxy.superseded import Outcome, Repetitions, Sent

ATTEMPT = ("r", "a")
OUTCOMES: tuple[Outcome, ...] = ("answered", "left", "failed")


class Client:
    """Calls that come and end at times which the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.repetitions = Repetitions(lambda: self.now)
        self._count = 0

    def call(self, body: bytes = b"{}", *, retry: int | None = None, key: str = "", attempt: str = "a") -> Sent:
        self.now += 1
        self._count += 1
        headers = {b"x-stainless-retry-count": str(retry)} if retry is not None else {}
        headers |= {b"idempotency-key": key} if key else {}
        return self.repetitions.begin(f"span-{self._count}", ("r", attempt), "/chat/completions", body, headers)

    def end(self, sent: Sent, outcome: Outcome = "answered") -> str | None:
        self.now += 1
        return self.repetitions.end(sent, outcome)


def test_samples_of_one_request_are_no_repetitions() -> None:
    client = Client()
    calls = [client.call(retry=0) for _ in range(4)]
    assert [client.end(each) for each in calls] == [None] * 4
    assert client.end(client.call()) is None


@pytest.mark.parametrize("retry", [None, 0, 1])
def test_a_lost_call_is_repeated_by_the_next_of_its_body(retry: int | None) -> None:
    client = Client()
    first = client.call(retry=0)
    client.end(first, "failed")
    assert client.end(client.call(b"other", retry=retry)) is None
    assert client.end(client.call(attempt="b", retry=retry)) is None
    assert client.end(client.call(retry=retry)) == first.span_id


def test_each_repetition_names_the_one_before() -> None:
    client = Client()
    calls = [client.call(retry=number) for number in range(3)]
    assert [client.end(each, "answered" if each is calls[-1] else "failed") for each in calls] == [
        None,
        "span-1",
        "span-2",
    ]


def test_an_answer_that_did_not_arrive_is_repeated_if_the_client_says_so() -> None:
    client = Client()
    first = client.call(retry=0)
    assert client.end(first) is None
    assert client.end(client.call(retry=1)) == first.span_id


def test_a_call_whose_client_left_unnoticed_is_repeated() -> None:
    client = Client()
    first = client.call(retry=0)
    assert client.end(client.call(retry=1)) == first.span_id
    assert client.end(first) is None


def test_a_repetition_takes_the_lost_sample_and_leaves_the_answered() -> None:
    client = Client()
    lost, kept = client.call(retry=0), client.call(retry=0)
    client.end(lost, "failed")
    assert client.end(kept) is None  # it came before the other was lost
    assert client.end(client.call(retry=0)) == lost.span_id  # perhaps; a lost call is no sample in any case
    assert client.end(client.call(retry=1)) == lost.span_id
    assert client.end(client.call(retry=1)) is not None  # and now only answered ones are left


def test_a_stream_that_its_client_left_is_repeated_only_if_the_client_says_so() -> None:
    client = Client()
    first, other = client.call(retry=0), client.call(retry=0)
    client.end(first, "left")
    assert client.end(client.call(retry=0)) is None
    assert client.end(client.call(retry=1)) == first.span_id
    assert client.end(other) is None


def test_of_one_key_the_last_counts() -> None:
    client = Client()
    first, other = client.call(key="k"), client.call(key="l")
    client.end(first)
    client.end(other)
    assert client.end(client.call(b"written anew", key="k")) == first.span_id


def test_what_was_answered_long_ago_is_not_repeated_any_more() -> None:
    client = Client()
    client.end(client.call(retry=0))
    client.now += 61
    assert client.end(client.call(retry=1)) is None


def test_what_failed_long_ago_is_not_repeated_any_more() -> None:
    client = Client()
    client.end(client.call(), "failed")
    repeated: list[str | None] = []
    for _ in range(10):  # the same is asked all the time
        client.now += 60
        repeated.append(client.end(client.call()))
    assert repeated[0] == "span-1"
    assert repeated[-1] is None


@pytest.mark.parametrize("count", ["", "-1", "1.5", "x", "²", "9" * 5000])
def test_a_count_that_is_none_counts_as_none(count: str) -> None:
    repetitions = Repetitions(lambda: 0.0)
    sent = repetitions.begin("s", ATTEMPT, "/p", b"", {b"x-stainless-retry-count": count})
    assert sent.retry == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(OUTCOMES)), max_size=30))
def test_no_answer_is_claimed_twice_and_none_without_being_told(calls: list[tuple[int, int, Outcome]]) -> None:
    client = Client()
    answered: set[str] = set()
    claimed: list[str] = []
    for body, retry, outcome in calls:
        sent = client.call(bytes([body]), retry=retry)
        repeated = client.end(sent, outcome)
        if repeated in answered:
            assert retry > 0
            claimed.append(repeated)
        if outcome != "failed":
            answered.add(sent.span_id)
    assert len(claimed) == len(set(claimed))


def test_memory_is_bounded() -> None:
    client = Client()
    long = client.call(b"long")
    for number in range(20_000):
        client.end(client.call(str(number).encode()))
        client.now -= 1.99
    assert len(client.repetitions) <= 16_385
    client.end(long, "failed")
    assert client.end(client.call(b"long")) == long.span_id  # however many calls came and went meanwhile
    client.now += 10_000
    client.end(client.call())
    assert len(client.repetitions) == 1


def test_calls_whose_end_nobody_told_are_forgotten() -> None:
    client = Client()
    first = client.call(retry=0)
    for number in range(17_000):
        client.call(str(number).encode())
    assert len(client.repetitions) <= 16_384
    assert client.end(first, "failed") is None
    assert client.end(client.call(retry=1)) is None
