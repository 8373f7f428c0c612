"""What the gateway remembers is bounded, and each attempt's own."""

from __future__ import annotations

import json

from hypothesis import given, strategies as st

from agentlightning.errors import InvalidRequest
from agentlightning.llm_proxy.dialects.memory import Attempt, Memory
from agentlightning.llm_proxy.dialects.responses import ResponsesCall, name_of
from agentlightning.llm_proxy.reply import Reply

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


def test_conversations_that_share_turns_are_bounded_with_all_that_they_hold() -> None:
    memory, attempt = Memory(most_bytes=20_000), ("r", "a")
    previous: dict[str, str] = {}
    names: list[str] = []
    for turn in range(30):
        try:
            call = ResponsesCall({"model": "m", "input": "x" * 1000, **previous}, attempt, memory)
        except InvalidRequest:
            break  # forgotten: the conversation alone is larger than the memory
        message = {"role": "assistant", "content": "y"}
        choice = {"message": message, "finish_reason": "stop"}
        chat = {"id": f"c{turn}", "created": 1, "model": "m", "choices": [choice]}
        call.answer(Reply(200, json.dumps(chat).encode()))
        previous = {"previous_response_id": f"c{turn}"}
        names.append(name_of(f"c{turn}"))
        conversations = [kept for name in names if (kept := memory.recall(attempt, name)) is not None]
        alive = {id(message): message for kept in conversations for message in kept}
        assert len(json.dumps(list(alive.values()))) <= 20_000
    assert 10 < len(names) < 30
