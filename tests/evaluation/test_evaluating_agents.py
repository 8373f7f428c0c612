from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace as otel

import agentlightning as agl
from agentlightning.errors import AgentError, ConfigurationError
from agentlightning.evaluation.report import describe_verdict, set_table, task_table, write_files


@agl.rollout
async def solve(task: dict[str, int], prompt: agl.PromptTemplate) -> float:
    """Solves every third task, and all with a prompt that says so; a call takes tokens."""
    attributes: dict[str, Any] = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "m",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "done",
        "llm.token_count.prompt": len(prompt.template),
        "llm.token_count.completion": 2,
    }
    with otel.get_tracer("test").start_as_current_span("ChatCompletion", attributes=attributes):
        pass
    return float(task["number"] % 3 == 0 or prompt.template == "careful")


@agl.rollout
async def fail_without_care(task: dict[str, int], prompt: agl.PromptTemplate) -> float:
    if prompt.template != "careful":
        raise LookupError("lost the way")
    return 1.0


@agl.rollout
async def unrewarded(task: dict[str, int], prompt: agl.PromptTemplate) -> None:
    pass


@agl.rollout
async def stuck_on_the_first(task: dict[str, int], prompt: agl.PromptTemplate) -> float:
    if task["number"] == 0:
        await asyncio.Event().wait()
    return 1.0


def prompt(text: str) -> agl.NamedResources:
    return {"prompt": agl.PromptTemplate(template=text, engine="f-string")}


def tasks(count: int = 15) -> list[dict[str, int]]:
    return [{"number": number} for number in range(count)]


SETS = {"old": prompt("hm"), "new": prompt("careful")}


def test_second_set_is_compared_with_the_first_task_by_task() -> None:
    result = agl.evaluate(solve, tasks(), SETS, samples=2)
    old, new = result.sets
    assert (old.rewards, new.rewards) == ([1.0, 0.0, 0.0] * 5, [1.0] * 15)
    assert result.difference is not None
    assert (result.verdict, result.difference.changed, result.difference.mean) == ("better", 10, pytest.approx(2 / 3))
    assert [len(samples) for samples in old.samples] == [2] * 15
    reverse = agl.evaluate(solve, tasks(), dict(reversed(SETS.items())))
    assert reverse.verdict == "worse"
    assert agl.evaluate(solve, tasks(), {"a": prompt("hm"), "b": prompt("hm")}).verdict == "no evidence of a difference"


def test_single_set_has_an_interval_and_no_verdict() -> None:
    result = agl.evaluate(solve, tasks(), {"old": prompt("hm")})
    [old] = result.sets
    assert (result.verdict, result.difference, result.record()["verdict"]) == (None, None, None)
    assert old.reward.mean == pytest.approx(1 / 3)
    assert old.reward.low < old.reward.mean < old.reward.high


def test_tokens_and_cost_are_those_of_the_calls_seen() -> None:
    result = agl.evaluate(solve, tasks(), SETS, samples=2, prices=agl.Prices(prompt=1e6, completion=10e6))
    record = result.record()
    used = {"calls": 30, "prompt_tokens": 60, "completion_tokens": 60, "uncounted": 0, "cost": 660.0}
    assert record["sets"]["old"].items() >= used.items()
    assert (
        record["tasks"][3]["sets"]["new"].items() >= {"prompt_tokens": 14, "completion_tokens": 4, "cost": 54}.items()
    )
    assert agl.evaluate(solve, tasks(), SETS).record()["sets"]["old"]["cost"] is None


def test_failure_counts_0_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    result = agl.evaluate(fail_without_care, tasks(), SETS)
    old, new = result.sets
    assert (old.rewards, old.failed, new.failed) == ([0.0] * 15, 15, 0)
    assert old.samples[0][0].error == "LookupError: lost the way"
    assert result.verdict == "better"


def test_run_that_does_not_end_in_time_counts_0() -> None:
    [found] = agl.evaluate(stuck_on_the_first, tasks(4), {"old": prompt("hm")}, timeout=3.0).sets
    assert (found.rewards, found.failed) == ([0.0, 1.0, 1.0, 1.0], 1)


def test_progress_is_told_to_the_last_rollout() -> None:
    told: list[tuple[int, int]] = []
    agl.evaluate(solve, tasks(4), SETS, samples=2, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 16) for done in range(1, 17)]


def test_split_says_whether_the_tasks_were_the_same() -> None:
    splits = [agl.evaluate(solve, each, SETS).split for each in (tasks(4), tasks(4), tasks(5))]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tasks": tasks(1)}, "at least two tasks, not 1"),
        ({"resources": {}}, "there are 0"),
        ({"resources": SETS | {"third": prompt("x")}}, "two by two"),
        ({"samples": 0}, "samples=0"),
        ({"n_runners": 0}, "n_runners=0"),
        ({"timeout": 0.0}, "timeout=0.0"),
    ],
    ids=["tasks", "no set", "three sets", "samples", "runners", "timeout"],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_runs(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        agl.evaluate(solve, **{"tasks": tasks(), "resources": SETS} | arguments)


def test_no_reward_at_all_is_an_error_that_names_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AgentError, match="return one from the agent"):
        agl.evaluate(unrewarded, tasks(), SETS)
    with pytest.raises(AgentError, match="LookupError: lost the way"):
        agl.evaluate(fail_without_care, tasks(), {"old": prompt("hm")})


def test_folder_holds_record_table_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = agl.evaluate(solve, tasks(), SETS, run_dir=tmp_path / "out")
    record, table, plot = write_files(result, tmp_path / "out")
    assert json.loads(record.read_text()) == json.loads(json.dumps(result.record()))
    assert len(table.read_text().splitlines()) == 16
    assert plot.read_bytes().startswith(b"\x89PNG")
    write_files(agl.evaluate(solve, tasks(), {"old": prompt("hm")}), tmp_path)
    assert (tmp_path / "out" / "store.db").exists()


def test_without_matplotlib_there_is_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = write_files(agl.evaluate(solve, tasks(2), {"old": prompt("hm")}), tmp_path)
    assert [path.name for path in written] == ["evaluation.json", "tasks.csv"]


def test_tables_have_a_column_for_each_thing_and_the_worst_task_first() -> None:
    result = agl.evaluate(solve, tasks(), dict(reversed(SETS.items())), prices=agl.Prices(1.0, 1.0))
    columns, rows = task_table(result)
    assert columns == [
        "number", "task", "reward new", "reward old", "change",
        "tokens in new", "tokens out new", "cost new", "tokens in old", "tokens out old", "cost old",
    ]  # fmt: skip
    assert rows[0] == ["1", '{"number": 1}', "1", "0", "-1", "7", "2", "9e-06", "2", "2", "4e-06"]
    assert [row[4] for row in rows] == ["-1"] * 10 + ["+0"] * 5
    head, figures = set_table(result)
    assert (head, dict((row[0], row[1:]) for row in figures)["tokens in"]) == (
        ["resources", "new", "old"],
        ["105", "30"],
    )
    assert describe_verdict(result).endswith("paired over 15 tasks, of which 10 changed: worse")


async def test_works_where_a_loop_runs_already() -> None:
    assert agl.evaluate(solve, tasks(2), {"old": prompt("hm")}).sets[0].rewards == [1.0, 0.0]
