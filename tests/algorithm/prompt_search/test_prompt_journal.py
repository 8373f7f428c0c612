from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentlightning.algorithm.prompt_search import Journal


class Paid:
    """Work that is counted."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> dict[str, Any]:
        self.calls += 1
        return {"text": f"answer {self.calls}"}


@pytest.mark.parametrize("on_disk", [True, False], ids=["on disk", "in memory"])
async def test_what_was_asked_is_paid_for_once(tmp_path: Path, on_disk: bool) -> None:
    journal, paid = Journal(tmp_path / "j.jsonl" if on_disk else None), Paid()
    first = await journal.once("chat", "round-1", {"prompt": "é"}, paid)
    assert await journal.once("chat", "round-1", {"prompt": "é"}, paid) == first == {"text": "answer 1"}
    journal.close()


async def test_kind_key_and_question_tell_answers_apart(tmp_path: Path) -> None:
    journal, paid = Journal(tmp_path / "j.jsonl"), Paid()
    for question in (("chat", "1", "a"), ("chat", "2", "a"), ("other", "1", "a"), ("chat", "1", "b")):
        await journal.once(*question, paid)
    assert paid.calls == 4
    journal.close()
    again = Journal(tmp_path / "j.jsonl")
    assert await again.once("chat", "1", "b", paid) == {"text": "answer 4"}
    assert paid.calls == 4


async def test_work_that_fails_is_not_written(tmp_path: Path) -> None:
    async def fail() -> dict[str, Any]:
        raise RuntimeError("no answer")

    journal = Journal(tmp_path / "j.jsonl")
    with pytest.raises(RuntimeError):
        await journal.once("chat", "1", "a", fail)
    assert journal.find("chat", "1", "a") is None
    assert not (tmp_path / "j.jsonl").exists()


@pytest.mark.parametrize("kept", range(0, 60, 7))
async def test_wherever_a_line_is_torn_those_before_it_stay_and_it_is_written_anew(tmp_path: Path, kept: int) -> None:
    path, paid = tmp_path / "j.jsonl", Paid()
    journal = Journal(path)
    await journal.once("chat", "1", "a", paid)
    whole = path.read_bytes()
    await journal.once("chat", "2", "b", paid)
    journal.close()
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    resumed = Journal(path)
    assert resumed.find("chat", "1", "a") == {"text": "answer 1"}
    assert await resumed.once("chat", "2", "b", paid) == {"text": "answer 3"}
    resumed.close()
    last = Journal(path)
    assert [last.find("chat", "1", "a"), last.find("chat", "2", "b")] == [{"text": "answer 1"}, {"text": "answer 3"}]
