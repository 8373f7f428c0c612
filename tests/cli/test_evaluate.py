from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.forked import call_agl

ENTRY_POINT = "import sys; from agentlightning.cli import main; sys.exit(main())"
DEADLINE = 120
AGENTS = """
import asyncio
from pathlib import Path
import agentlightning as agl

@agl.rollout
async def solve(task, prompt: agl.PromptTemplate) -> float:
    return float(task["number"] % 3 == 0 or prompt.template == "careful")

@agl.rollout
async def broken(task, prompt: agl.PromptTemplate) -> float:
    raise LookupError("no such thing")

@agl.rollout
async def slow(task, prompt: agl.PromptTemplate) -> float:
    Path("started").touch()
    await asyncio.sleep(300)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_agents.py").write_text(AGENTS)
    tasks = [{"number": number, "text": "[/b] is no markup"} for number in range(30)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    for name, template in (("old", "hm"), ("new", "careful")):
        prompt = {"resource_type": "prompt_template", "template": template, "engine": "f-string"}
        (tmp_path / f"{name}.json").write_text(json.dumps({"prompt": prompt}))
    return tmp_path


def command(*arguments: str, agent: str = "my_agents:solve") -> list[str]:
    return ["evaluate", agent, "--data", "tasks.jsonl", *arguments]


def evaluate(folder: Path, *arguments: str, agent: str = "my_agents:solve") -> subprocess.CompletedProcess[str]:
    return call_agl(*command(*arguments, agent=agent), folder=folder)


def test_two_sets_are_compared_and_the_folder_keeps_everything(folder: Path) -> None:
    done = evaluate(
        folder, "--resources", "old.json", "--resources", "new.json", "--price", "1,2", "--output", "out", "--samples=2"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "new compared with old: +0.6667" in done.stdout
    assert "of which 20 changed: better" in done.stdout
    assert "both ends of 30" in done.stdout
    assert re.search(r"cost *\n", done.stdout)  # the last column, though the terminal is narrow
    assert {"evaluation.json", "tasks.csv", "run.json", "store.db"} <= {
        path.name for path in (folder / "out").iterdir()
    }
    assert json.loads((folder / "out" / "evaluation.json").read_text())["prices"] == {"prompt": 1, "completion": 2}


def test_json_is_for_programs_and_a_runs_best_is_a_set_of_resources(folder: Path) -> None:
    resources = json.loads((folder / "new.json").read_text())
    (folder / "best.json").write_text(json.dumps({"score": 0.5, "resources": resources}))
    done = evaluate(folder, "--resources", "best.json", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert (record["verdict"], record["sets"]["best"]["reward"]["mean"], len(record["tasks"])) == (None, 1.0, 30)
    [run] = (folder / "runs").iterdir()
    assert json.loads((run / "evaluation.json").read_text()) == record


def test_interrupted_evaluation_says_so_and_gives_no_verdict(folder: Path) -> None:
    arguments = command("--resources", "old.json", "--output", "out", agent="my_agents:slow")
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY_POINT, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
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
        said, complained = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert (process.returncode, said) == (130, "")
    assert "there is no verdict" in complained
    assert not (folder / "out" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "Missing option '--resources'"),
        (("--resources", "lost.json"), 1, "lost.json holds no resources"),
        (("--resources", "tasks.jsonl"), 1, "tasks.jsonl holds no resources"),
        (("--resources", "old.json", "--resources", "old.json"), 1, "named twice"),
        (("--resources", "old.json", "--price", "3"), 1, "write prompt,completion"),
        (("--resources", "old.json", "--price", "1,-2"), 1, "prices must be at least 0"),
    ],
    ids=["none", "lost", "tasks", "twice", "one price", "negative price"],
)
def test_what_is_wrong_is_one_line_before_anything_runs(
    folder: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = evaluate(folder, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert not (folder / "runs").exists()


def test_agent_that_always_fails_is_named(folder: Path) -> None:
    done = evaluate(folder, "--resources", "old.json", agent="my_agents:broken")
    assert (done.returncode, done.stdout) == (1, "")
    assert "agl: none of 30 rollouts had a reward: the first that failed says LookupError: no such thing" in done.stderr
