"""What the gateway remembers is bounded, and each attempt's own."""

from __future__ import annotations

from hypothesis import given, strategies as st

from agentlightning.llm_proxy.dialects.memory import Attempt, Memory

KEYS = st.tuples(st.sampled_from([("r", "a"), ("r", "b"), (None, None)]), st.sampled_from("xyz"))


@given(kept=st.lists(st.tuples(KEYS, st.integers(0, 60)), max_size=9, unique_by=lambda pair: pair[0]))
def test_the_newest_are_known_as_long_as_they_fit(
    kept: list[tuple[tuple[Attempt, str], int]],
) -> None:
    memory, limit = Memory(most_bytes=100), 100
    for number, ((attempt, name), size) in enumerate(kept):
        memory.keep(attempt, name, number, size)
    latest = {key: (number, size) for number, (key, size) in enumerate(kept)}
    newest_first = sorted(latest.items(), key=lambda item: -item[1][0])
    held = 0
    for (attempt, name), (number, size) in newest_first:
        held += size
        if held <= limit:
            assert memory.recall(attempt, name) == number
    known = [size for (attempt, name), (_, size) in newest_first if memory.recall(attempt, name) is not None]
    assert sum(known) <= limit


def test_what_is_used_stays() -> None:
    memory = Memory(most_bytes=2)
    memory.keep(("r", "a"), "old", 1, 1)
    memory.keep(("r", "a"), "new", 2, 1)
    assert memory.recall(("r", "a"), "old") == 1
    memory.keep(("r", "a"), "newest", 3, 1)
    assert [memory.recall(("r", "a"), name) for name in ("old", "new", "newest")] == [1, None, 3]


def test_another_attempt_knows_nothing() -> None:
    memory = Memory()
    memory.keep(("r", "a"), "x", 1, 1)
    assert memory.recall(("r", "b"), "x") is None
