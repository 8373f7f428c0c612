from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm import AlgorithmContext
from agentlightning.trainer.run_folder import RunFolder
from agentlightning.types import AttemptStatus
from tests.adapter.spans import make_call, make_reward
from tests.cli.forked import call_agl


def run_agl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call_agl(*arguments, folder=folder, environment={"PATH": "", "COLUMNS": "200"})


@agl.rollout
async def agent(task: dict[str, Any]) -> float:
    agl.emit_message("hello")
    return task["reward"]


@agl.algo
async def learn(context: AlgorithmContext, train_dataset: list[Any]) -> None:
    async for outcome in context.rollouts(train_dataset, mode="train"):
        context.log({"kind": "step", "reward": outcome.reward, "loss": 0.125})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs that ended, and one whose process died."""
    folder = tmp_path_factory.mktemp("runs-of-a-user")
    for name, rewards in (("one", [0.5, 1.0]), ("two", [0.25])):
        trainer = agl.Trainer(algorithm=learn, run_dir=folder / "runs" / name, n_runners=len(rewards))
        trainer.fit(agent, [{"reward": reward} for reward in rewards])
        asyncio.run(trainer.store.close())
    killed = RunFolder(folder / "runs" / "killed", resuming=False)
    with killed.running():
        text = (killed.path / "run.json").read_text()
    (killed.path / "run.json").write_text(text)
    (killed.path / "metrics.jsonl").write_text('{"reward": 0.75}\n{"rew')
    return folder


def test_list_shows_each_run_the_newest_first(folder: Path) -> None:
    done = run_agl(folder, "runs", "list")
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines() if line.strip().startswith("runs/")]
    assert [(line[0], line[1]) for line in lines] == [
        ("runs/killed", "killed"), ("runs/two", "succeeded"), ("runs/one", "succeeded")
    ]  # fmt: skip
    assert lines[0][-1] == "0.75"
    listed = json.loads(run_agl(folder, "runs", "list", "--json").stdout)
    assert [run["run"] for run in listed] == ["runs/killed", "runs/two", "runs/one"]
    assert listed[1]["rollouts"] == {"succeeded": 1}


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"state": "lost", "started_at": 1}'], ids=str)
def test_one_run_that_cannot_be_read_hides_no_other(tmp_path: Path, content: bytes) -> None:
    with RunFolder(tmp_path / "runs" / "good", resuming=False).running():
        pass
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "run.json").write_bytes(content)
    done = run_agl(tmp_path, "runs", "list")
    assert (done.returncode, "runs/bad/run.json is not what a run writes" in done.stderr) == (0, True)
    lines = [line.split() for line in done.stdout.splitlines() if line.strip().startswith("runs/")]
    assert {line[0]: line[1] for line in lines} == {"runs/good": "succeeded", "runs/bad": "unreadable"}
    listed = run_agl(tmp_path, "runs", "list", "--json")
    assert {run["run"]: run["state"] for run in json.loads(listed.stdout)}["runs/bad"] == "unreadable"


def test_list_of_a_folder_without_runs_says_what_makes_some(tmp_path: Path) -> None:
    done = run_agl(tmp_path, "runs", "list")
    assert (done.returncode, "agl train and agl demo make some" in done.stdout) == (0, True)


def test_show_says_what_a_run_was_and_reached(folder: Path) -> None:
    done = run_agl(folder, "runs", "show", "runs/one")
    assert done.returncode == 0
    for said in (
        "runs/one: succeeded",
        f"{__name__}.learn",
        "OtelTracer",
        "loss",
        "0.125",
        "metrics.jsonl",
        "store.db",
    ):
        assert said in done.stdout
    assert json.loads(run_agl(folder, "runs", "show", "runs/one", "--json").stdout)["metrics"]["loss"] == 0.125
    refused = run_agl(folder, "runs", "show", "runs")
    assert (refused.returncode, "holds no run" in refused.stderr) == (1, True)


def test_compare_sets_metrics_and_differences_side_by_side(folder: Path) -> None:
    done = run_agl(folder, "runs", "compare", "runs/one", "runs/two")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["n_runners", "2", "1"] in rows
    assert ["loss", "0.125", "0.125"] in rows
    assert not any(row and row[0] == "tracer" for row in rows)
    refused = run_agl(folder, "runs", "compare", "runs/one")
    assert (refused.returncode, "at least two" in refused.stderr) == (1, True)


CONTENTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "spans": lambda record: record["span_id"],
    "messages": lambda record: record["messages"][-1]["content"],
    "triplets": lambda record: (record["prompt"]["token_ids"], record["response"]["token_ids"], record["reward"]),
    "rows": lambda record: (record["token_ids"], record["mask"]),
}
EXPECTED: dict[str, list[Any]] = {
    "spans": ["first", "second", "reward-2"],
    "messages": ["first", "second"],
    "triplets": [([1, 2], [1], None), ([1, 2], [2], 0.75)],
    "rows": [([1, 2, 1], [False, False, True]), ([1, 2, 2], [False, False, True])],
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, in which one rollout with two model calls succeeded and another one failed."""
    folder = tmp_path_factory.mktemp("run-with-calls")
    asyncio.run(_fill(folder / "store.db"))
    return folder


async def _fill(path: Path) -> None:
    store = agl.SqliteLightningStore(path)
    statuses: tuple[AttemptStatus, ...] = ("succeeded", "failed")
    for status in statuses:
        rollout = await store.start_rollout(input={}, mode="train")
        ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
        spans = [make_call("first", 0), make_call("second", 1), make_reward(0.75, 2)]
        await store.add_many_spans([span.model_copy(update=ids) for span in spans])
        await store.update_attempt(ids["rollout_id"], ids["attempt_id"], status=status)
    await store.close()


@pytest.mark.parametrize("kind", CONTENTS)
def test_export_writes_records_of_what_succeeded(calls: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out.jsonl"
    done = run_agl(calls, "export", ".", str(target), "--as", kind)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in target.read_text().splitlines()]
    assert [CONTENTS[kind](record) for record in records] == EXPECTED[kind]
    assert {(record["final_reward"], record["mode"]) for record in records} == {(0.75, "train")}
    assert len({record["rollout_id"] for record in records}) == 1
    again = run_agl(calls, "export", ".", str(target), "--as", kind)
    assert (again.returncode, "is there already" in again.stderr) == (1, True)


LIBRARY = """
import json, os

class Dataset:
    @classmethod
    def from_list(cls, records):
        made = cls()
        made.records = records
        return made

    def save_to_disk(self, folder):
        with open(os.path.join(folder, "records.json"), "w") as file:
            json.dump(self.records, file)
        if os.path.exists("fails"):
            raise OSError("disk full")
"""
MISSING = 'raise ModuleNotFoundError("No module named datasets", name="datasets")'


def test_dataset_is_a_folder_that_is_there_whole_or_as_it_was(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "datasets.py").write_text(
        LIBRARY
    )  # stands in for the library, which the working directory comes before
    command = ("export", str(calls), "out", "--format", "hf", "--force")
    for _ in range(2):
        done = run_agl(tmp_path, *command)
        assert done.returncode == 0, done.stderr
    written = (tmp_path / "out" / "records.json").read_text()
    assert [record["messages"][-1]["content"] for record in json.loads(written)] == EXPECTED["messages"]
    (tmp_path / "fails").touch()
    assert run_agl(tmp_path, *command, "--as", "spans").returncode != 0
    assert (tmp_path / "out" / "records.json").read_text() == written
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        "datasets.py", "fails", "out"
    ]  # fmt: skip


def test_dataset_without_its_library_says_what_to_install(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "datasets.py").write_text(MISSING)
    done = run_agl(tmp_path, "export", str(calls), "out", "--format", "hf")
    assert (done.returncode, done.stdout, "[datasets]" in done.stderr) == (1, "", True)
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["datasets.py"]


def test_export_takes_only_what_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    def exported(*options: str) -> set[float]:
        done = run_agl(folder, "export", "runs/one", str(tmp_path / "out"), "--as", "spans", "--force", *options)
        assert done.returncode == 0, done.stderr
        return {json.loads(line)["final_reward"] for line in (tmp_path / "out").read_text().splitlines()}

    assert exported("--min-reward", "0.75") == {1.0}
    assert exported("--mode", "train") == {0.5, 1.0}
    assert exported("--mode", "val") == set()


def test_export_of_what_is_no_store_is_refused(folder: Path, tmp_path: Path) -> None:
    for source in ("runs", "lost.db"):
        done = run_agl(folder, "export", source, str(tmp_path / "out"))
        assert (done.returncode, "store" in done.stderr, (tmp_path / "out").exists()) == (1, True, False)


@pytest.mark.parametrize(("command", "says"), [("vllm", "agl proxy"), ("prometheus", "/metrics")])
def test_ended_commands_say_what_takes_their_place(tmp_path: Path, command: str, says: str) -> None:
    done = run_agl(tmp_path, command, "serve", "--port", "1")
    assert (done.returncode, says in done.stderr) == (2, True)
