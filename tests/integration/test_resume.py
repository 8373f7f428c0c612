from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import resume_process

import agentlightning as agl
from agentlightning.algorithm.rounds import PLACE_KEY, ROUND_KEY
from agentlightning.trainer.run_folder import read_run

PROGRAM = Path(resume_process.__file__)
DEADLINE = 120.0


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(PROGRAM), str(folder), *options], start_new_session=True)


def succeeded(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Return attempt, round and place of each rollout that succeeded."""

    async def read() -> dict[str, tuple[str, str, str]]:
        store = agl.SqliteLightningStore(folder / "store.db", read_only=True)
        try:
            found: dict[str, tuple[str, str, str]] = {}
            for rollout in await store.query_rollouts(status_in=["succeeded"]):
                assert isinstance(rollout, agl.AttemptedRollout)
                metadata = rollout.metadata or {}
                place = rollout.attempt.attempt_id, metadata[ROUND_KEY], str(metadata[PLACE_KEY])
                found[rollout.rollout_id] = place
            return found
        finally:
            await store.close()

    return asyncio.run(read())


def wait_for(folder: Path, rollouts: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until so many rollouts have succeeded, the first evaluation's among them."""
    deadline = time.monotonic() + DEADLINE
    while not (folder / "metrics.jsonl").exists() or len(succeeded(folder)) < rollouts:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(DEADLINE)


def check_whole(folder: Path) -> None:
    """Every sample of every step succeeded exactly once, and both evaluations did."""
    places = Counter((round_key, place) for _, round_key, place in succeeded(folder).values())
    steps = resume_process.STEPS * resume_process.TASKS * resume_process.SAMPLES
    assert len(places) == steps + 2 * 2
    assert set(places.values()) == {1}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, resume_process.STEPS + 1))
    assert [line["version"] for line in lines if line["kind"] == "evaluation"] == [0, resume_process.STEPS]


@pytest.mark.timeout(300)
def test_killed_in_the_middle_of_a_step_it_goes_on_and_runs_nothing_twice(tmp_path: Path) -> None:
    per_step = resume_process.TASKS * resume_process.SAMPLES
    run = start(tmp_path)
    try:
        wait_for(tmp_path, 2 + per_step + per_step // 2, run)
    finally:
        kill_tree(run)
    before = succeeded(tmp_path)
    assert read_run(tmp_path).state == "running"
    resumed = start(tmp_path, "--resume")
    try:
        assert resumed.wait(DEADLINE) == 0
    finally:
        if resumed.poll() is None:
            kill_tree(resumed)
    assert before.items() <= succeeded(tmp_path).items()
    check_whole(tmp_path)
    record = read_run(tmp_path)
    assert (record.state, record.resumed) == ("succeeded", 1)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_demo_killed_five_times_learns_like_an_undisturbed_one(tmp_path: Path) -> None:
    random_moments = random.Random(7)
    output = tmp_path / "run"
    command = [sys.executable, "-c", "import sys; from agentlightning.cli import main; sys.exit(main())", "demo"]
    run = subprocess.Popen([*command, "--output", str(output)], start_new_session=True)
    kept: dict[str, tuple[str, str, str]] = {}
    for kill in range(5):
        try:
            # 400 rollouts are the first evaluation, and 2,560 are those of the forty steps.
            wait_for(output, 450 + 450 * kill + random_moments.randint(0, 400), run)
        finally:
            kill_tree(run)
        kept |= succeeded(output)
        run = subprocess.Popen([*command, "--resume", str(output)], start_new_session=True)
        print(f"killed with {len(kept)} rollouts succeeded")  # noqa: T201  # a soak reports its figures
    try:
        assert run.wait(600) == 0
    finally:
        if run.poll() is None:
            kill_tree(run)
    after = succeeded(output)
    assert kept.items() <= after.items()
    assert len({place[1:] for place in after.values()}) == len(after)
    summary = json.loads((output / "summary.json").read_text())
    print(json.dumps(summary)[:400])  # noqa: T201
    assert summary["verdict"] == "better"
    assert summary["after"]["success"] >= 0.75  # undisturbed runs: 0.84 to 0.93
    assert read_run(output).resumed == 5
