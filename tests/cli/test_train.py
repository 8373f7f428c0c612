from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentlightning.trainer.config import read_config
from tests.cli.forked import call_agl

ENTRY_POINT = "import sys; from agentlightning.cli import main; sys.exit(main())"
DEADLINE = 120
AGENTS = """
import asyncio
from pathlib import Path
import agentlightning as agl

@agl.rollout
async def double(task, prompt: agl.PromptTemplate | None = None) -> float:
    return task["number"] * 2.0

@agl.rollout
async def broken(task) -> float:
    raise LookupError("no such thing")

@agl.rollout
async def slow(task) -> float:
    Path("started").touch()
    await asyncio.sleep(300)

def tasks():
    return [{"number": number} for number in range(5)]

async def main():
    print("called", agl.Trainer().dev(double, tasks()).rollouts)

number = 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_agents.py").write_text(AGENTS)
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps({"number": number}) + "\n" for number in range(4)))
    return tmp_path


def write(folder: Path, **settings: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"agent": "my_agents:double", "train": "tasks.jsonl"} | settings))
    return path


def agl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call_agl(*arguments, folder=folder)


def test_file_is_run_and_leaves_a_folder(folder: Path) -> None:
    write(folder, algorithm="baseline", val="my_agents.py:tasks", n_runners=2, run_dir="out")
    done = agl(folder, "train", "run.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "9 succeeded" in done.stdout
    assert "agl runs show" in done.stdout
    assert json.loads((folder / "out" / "run.json").read_text())["components"]["n_runners"] == 2


def test_resumed_run_goes_on_in_its_folder(folder: Path) -> None:
    write(folder, algorithm="baseline")
    assert agl(folder, "train", "run.yaml", "--run-dir", "out").returncode == 0
    refused = agl(folder, "train", "run.yaml", "--run-dir", "out")
    assert (refused.returncode, "holds a run already" in refused.stderr) == (1, True)
    done = agl(folder, "train", "run.yaml", "--resume", "out")
    assert (done.returncode, "4 succeeded" in done.stdout) == (0, True)


def test_strategy_may_be_named(folder: Path) -> None:
    write(folder, algorithm="baseline", strategy={"type": "cs", "n_runners": 2})
    assert agl(folder, "train", "run.yaml", "--strategy", "shm", "--run-dir", "out").returncode == 0
    components = json.loads((folder / "out" / "run.json").read_text())["components"]
    assert (components["n_runners"], "SharedMemory" in str(components["strategy"])) == (1, True)
    refused = agl(folder, "train", "run.yaml", "--strategy", "elsewhere")
    assert (refused.returncode, "['cs', 'ray', 'shm']" in refused.stderr) == (1, True)


def test_folders_that_disagree_are_refused(folder: Path) -> None:
    write(folder, algorithm="baseline")
    assert agl(folder, "train", "run.yaml", "--run-dir", "out").returncode == 0
    refused = agl(folder, "train", "run.yaml", "--run-dir", "other", "--resume", "out")
    assert (refused.returncode, "--run-dir other and --resume out name two folders" in refused.stderr) == (1, True)
    assert not (folder / "other").exists()
    assert agl(folder, "train", "run.yaml", "--run-dir", "./out", "--resume", "out").returncode == 0


@pytest.mark.parametrize("command", ["train", "dev"])
def test_warnings_are_shown(folder: Path, command: str) -> None:
    write(folder, algorithm="baseline", n_runners=3, strategy={"type": "shm", "n_runners": 2})
    done = agl(folder, command, "run.yaml")
    assert (done.returncode, "n_runners=3 is ignored" in done.stderr) == (0, True)


def test_function_is_called(folder: Path) -> None:
    done = agl(folder, "train", "my_agents:main")
    assert (done.returncode, done.stdout) == (0, "called {'succeeded': 5}\n")
    refused = agl(folder, "train", "my_agents:main", "--set", "n_runners=2")
    assert (refused.returncode, "are for files" in refused.stderr) == (1, True)
    assert "is no function but a int" in agl(folder, "train", "my_agents:number").stderr


def test_interrupted_run_says_how_to_go_on(folder: Path) -> None:
    write(folder, agent="my_agents:slow", algorithm="baseline")
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY_POINT, "train", "run.yaml", "--run-dir", "out"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + DEADLINE
        while not (folder / "started").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert (process.returncode, "agl train run.yaml --resume out" in said) == (130, True)
    assert json.loads((folder / "out" / "run.json").read_text())["state"] == "interrupted"


def test_dev_runs_a_few_tasks_and_its_exit_code_says_how_they_went(folder: Path) -> None:
    write(folder, algorithm={"type": "grpo", "model": "nowhere"}, val="tasks.jsonl")
    done = agl(folder, "dev", "run.yaml", "--tasks", "2")
    assert (done.returncode, "4 succeeded" in done.stdout) == (0, True)
    failed = agl(folder, "dev", "run.yaml", "--set", "agent=my_agents:broken")
    assert (failed.returncode, "failed" in failed.stdout) == (1, True)
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == [
        "my_agents.py", "run.yaml", "tasks.jsonl"
    ]  # fmt: skip


def test_dev_leaves_the_file_s_store_alone(folder: Path) -> None:
    write(folder, algorithm="baseline", store={"type": "sqlite", "path": "kept.db"})
    assert agl(folder, "train", "run.yaml", "--run-dir", "out").returncode == 0
    before = (folder / "kept.db").read_bytes()
    done = agl(folder, "dev", "run.yaml", "--tasks", "2")
    assert (done.returncode, "Rollouts: 2 succeeded." in done.stdout) == (0, True)
    assert (folder / "kept.db").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "options", "says"),
    [
        ({"n_runer": 2}, (), "n_runer: there is no such key; 'n_runners' is meant?"),
        ({"algorithm": {"type": "grpoo"}}, (), "'grpoo' cannot be imported"),
        ({"algorithm": {"type": "baseline", "epochs": 2}}, (), "unexpected keyword argument 'epochs'"),
        ({"train": "lost.jsonl"}, (), "lost.jsonl holds no tasks"),
        ({"train": "my_agents:number"}, (), "is no dataset but a int"),
        ({"agent": "my_agents:lost"}, (), "my_agents has no 'lost'; it has double, broken, slow"),
        ({"n_runners": -1}, (), "n_runners: Input should be greater than or equal to 0"),
        ({"metrics": ["paper"]}, (), "metrics.0: Input should be"),
        ({}, ("--set", "n_runners"), "changes nothing: write key=value"),
        ({"n_runners": 2}, ("--set", "n_runners.x=1"), "reaches into 'n_runners'"),
        ({}, ("--set", "algorithm.x=[a"), "its value is no YAML"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line_and_exit_1(
    folder: Path, settings: dict[str, Any], options: tuple[str, ...], says: str
) -> None:
    write(folder, **settings)
    done = agl(folder, "train", "run.yaml", *options)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_given_on_the_command_line_reach_into_components(folder: Path) -> None:
    path = write(folder, algorithm="baseline")
    read = read_config(path, ["algorithm.n_epochs=3", "tracer.type=dummy", "n_runners=5"])
    assert read.algorithm == {"type": "baseline", "n_epochs": 3}
    assert (read.tracer, read.n_runners) == ({"type": "dummy"}, 5)


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("examples/**/*.yaml")), ids=lambda p: p.parent.name
)
def test_every_shipped_file_can_be_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    config = read_config(path)
    assert config.trainer(None).algorithm is not None
