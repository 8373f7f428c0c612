"""A search that was ended anyhow goes on, and pays for nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import gepa_program
import pytest
from gepa_program import TASKS, better_text, search

import agentlightning as agl
from agentlightning.algorithm.prompt_search import PromptEvaluator, Scored

PROGRAM = Path(gepa_program.__file__)


def lines_of(folder: Path) -> list[str]:
    return (folder / "paid.jsonl").read_text("utf-8").splitlines()


def noted(folder: Path | None, **options: Any) -> list[str]:
    """Return what a search pays for."""
    said: list[str] = []
    search(folder, said.append, **options)
    return [line for line in said if line != "begins"]


def run(folder: Path, kill_at: int, how: str) -> int:
    return subprocess.run([sys.executable, str(PROGRAM), str(folder), str(kill_at), how], timeout=100).returncode


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kill_at", [13, *(pytest.param(n, marks=pytest.mark.soak) for n in (4, 7, 10, 11, 20, 33))])
def test_killed_at_work_it_goes_on_and_pays_for_nothing_twice(tmp_path: Path, kill_at: int) -> None:
    folder = tmp_path / "run"
    assert run(folder, kill_at, "anew") == -signal.SIGKILL
    assert len(lines_of(tmp_path)) == kill_at - 1
    assert run(folder, 0, "resume") == 0
    assert lines_of(tmp_path) == noted(None)
    assert json.loads((folder / "history.json").read_text())["best"] == 3


def test_a_search_that_ended_is_told_again_without_paying(tmp_path: Path) -> None:
    first = search(tmp_path)
    written = (tmp_path / "journal.jsonl").read_bytes()
    assert noted(tmp_path, resume=True) == []
    again = search(tmp_path, resume=True)
    assert [each.record() for each in again.history.candidates] == [each.record() for each in first.history.candidates]
    assert again.history.cost["reused"] == first.history.cost["rollouts"]
    assert (tmp_path / "journal.jsonl").read_bytes() == written


def test_answers_that_come_in_another_order_make_the_same_history(tmp_path: Path) -> None:
    asked = 0

    async def reflect(question: str) -> str:
        nonlocal asked
        asked += 1
        number = asked
        for _ in range(3 - number % 3):  # the later it was asked, the earlier it answers
            await asyncio.sleep(0.01)
        return f"```\n{better_text(question) if number % 2 else 'No placeholder.'}\n```"

    def found(resume: bool) -> list[dict[str, Any]]:
        options: dict[str, Any] = {"proposals": 3, "max_metric_calls": 120, "reflection_lm": reflect}
        return [each.record() for each in search(tmp_path, resume=resume, **options).history.candidates]

    first, calls = found(resume=False), asked
    assert any("it lost {question}" in (each["reason"] or "") for each in first)
    assert found(resume=True) == first
    assert asked == calls


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path: Path) -> None:
    paid = noted(tmp_path, max_metric_calls=20)
    assert paid + noted(tmp_path, resume=True) == noted(None)


@pytest.mark.parametrize("call", [1, 3])
def test_interrupted_while_it_reflects_it_ends_at_once_and_can_go_on(tmp_path: Path, call: int) -> None:
    paid: list[str] = []

    async def reflect(question: str) -> str:
        if len(paid) + 1 == call:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(3600)
        paid.append(question)
        return f"```\n{better_text(question)}\n```"

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, reflection_lm=reflect)
    assert not [thread for thread in threading.enumerate() if thread.name == "gepa"]
    whole: list[str] = []
    search(None, lambda line: whole.append(line) if "reflection" in line else None)

    async def go_on(question: str) -> str:
        paid.append(question)
        return f"```\n{better_text(question)}\n```"

    found = search(tmp_path, resume=True, reflection_lm=go_on)
    assert found.history.best is not None
    assert found.history.best.score == 1.0
    assert len(paid) == len(whole) == len(set(paid))


@pytest.mark.parametrize("rollout", [8, 12], ids=["parent", "child"])
def test_interrupted_while_the_agent_runs_it_cancels_and_goes_on(tmp_path: Path, rollout: int) -> None:
    paid: list[str] = []

    @agl.rollout
    async def agent(task: dict[str, str], prompt: agl.PromptTemplate) -> float:
        if len(paid) + 1 == rollout:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(3600)
        if task["rule"] not in prompt.template:
            agl.emit_message(f"The answer lacks this rule: {task['rule']}.")
        paid.append(f"{task['question']} {prompt.template}")
        return float(task["rule"] in prompt.template)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, agent=agent)
    assert not [thread for thread in threading.enumerate() if thread.name == "gepa"]
    before = len(paid)
    rest = [line for line in noted(tmp_path, resume=True) if line.startswith('["rollout"')]
    assert before == rollout - 1
    assert before + len(rest) == len([line for line in noted(None) if line.startswith('["rollout"')])


def test_a_reflection_that_failed_is_not_asked_for_again(tmp_path: Path) -> None:
    """Else a run that goes on would take another way than the one that it had paid for."""
    asked: list[str] = []

    def reflect(question: str) -> str:
        asked.append(question)
        if len(asked) == 2:
            raise failure
        return f"```\n{better_text(question)}\n```"

    failure = ConnectionError("down")
    failure.status_code = 400  # type: ignore[attr-defined]  # as SDKs' errors have it: asking again is of no use
    first = search(tmp_path, reflection_lm=reflect)
    assert [each.reason for each in first.history.candidates].count(None) == 4
    calls = len(asked)
    again = search(tmp_path, resume=True, reflection_lm=reflect)
    assert len(asked) == calls
    assert [each.record() for each in again.history.candidates] == [each.record() for each in first.history.candidates]


@pytest.mark.parametrize(
    "change",
    [{"reflection_model": "better"}, {"reflection_prompt_template": "Improve ```<curr_param>``` by <side_info>"}, {}],
    ids=lambda change: next(iter(change), "nothing"),
)
def test_what_is_asked_otherwise_is_asked_anew(
    tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans that come late or are lost change nothing: what was shown is known."""
    first = noted(tmp_path, max_metric_calls=18)

    async def none(self: PromptEvaluator, scored: Scored) -> list[Any]:
        return []

    monkeypatch.setattr(PromptEvaluator, "spans", none)
    again = [line for line in noted(tmp_path, resume=True, max_metric_calls=18, **change) if "reflection" in line]
    assert len([line for line in first if "reflection" in line]) == 1
    assert len(again) == len(change)


def test_what_other_rollouts_led_to_is_asked_anew(tmp_path: Path) -> None:
    """A rollout that failed is run again, and the model reads what came of it now."""
    down = True

    @agl.rollout
    async def agent(task: dict[str, str], prompt: agl.PromptTemplate) -> float:
        if down and task == TASKS[0]:
            raise ConnectionError("the model is down")
        if task["rule"] not in prompt.template:
            agl.emit_message(f"The answer lacks this rule: {task['rule']}.")
        return float(task["rule"] in prompt.template)

    options: dict[str, Any] = {"agent": agent, "reflection_minibatch_size": 9, "max_metric_calls": 30}
    search(tmp_path, **options)
    asked: list[str] = []

    def reflect(question: str) -> str:
        asked.append(question)
        return f"```\n{better_text(question)}\n```"

    search(tmp_path, resume=True, reflection_lm=reflect, **options)
    assert asked == []
    down = False
    found = search(tmp_path, resume=True, reflection_lm=reflect, **options)
    assert len(asked) == 1
    assert "is down" not in asked[0]
    assert found.history.candidates[0].rewards == [0.0] * 6
