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
from typing import Any

import apo_process
import pytest
from prompt_landscape import Optimiser, train

import agentlightning as agl
from agentlightning.algorithm.prompt_search import Journal, PromptEvaluator, Scored
from agentlightning.algorithm.rounds import PLACE_KEY, ROUND_KEY

PROGRAM = Path(apo_process.__file__)
DEADLINE = 60.0


def succeeded(folder: Path) -> dict[str, tuple[str, str]]:
    """Return round and place of each rollout that succeeded."""

    async def read() -> dict[str, tuple[str, str]]:
        store = agl.SqliteLightningStore(folder / "store.db", read_only=True)
        try:
            found = await store.query_rollouts(status_in=["succeeded"])
            metadata = {rollout.rollout_id: rollout.metadata or {} for rollout in found}
            return {id: (each[ROUND_KEY], str(each[PLACE_KEY])) for id, each in metadata.items()}
        finally:
            await store.close()

    return asyncio.run(read())


def tried(folder: Path) -> dict[str, Any]:
    """Return what is in a run's history, without what differs between any two runs."""
    history = json.loads((folder / "history.json").read_text())
    del history["cost"]
    for candidate in history["candidates"]:
        for results in candidate["results"].values():
            for each in results:
                del each["rollout_id"]
            results.sort(key=lambda each: each["task"])
    return history


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Optimiser]:
    folder, optimiser = tmp_path_factory.mktemp("undisturbed") / "run", Optimiser()
    train(optimiser, [], run_dir=folder)
    return folder, optimiser


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_point_it_goes_on_and_pays_for_nothing_twice(
    tmp_path: Path, undisturbed: tuple[Path, Optimiser], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    whole, reference = undisturbed
    written = len((whole / "journal.jsonl").read_text().splitlines())
    left = random.Random(seed).randrange(1, written)
    write = Journal.write

    def write_and_die(self: Journal, *entry: Any) -> None:
        nonlocal left
        write(self, *entry)
        left -= 1
        if left == 0:
            raise Killed

    monkeypatch.setattr(Journal, "write", write_and_die)
    first, second = Optimiser(), Optimiser()
    with pytest.raises(Killed):
        train(first, [], run_dir=tmp_path / "run")
    monkeypatch.undo()
    before = succeeded(tmp_path / "run")
    train(second, [], resume=tmp_path / "run")
    # What was on its way when the process died had not been answered, and is asked again.
    answered = first.answered + second.answered
    assert answered == reference.answered
    assert before.items() <= succeeded(tmp_path / "run").items()
    assert max(Counter(succeeded(tmp_path / "run").values()).values()) == 1
    assert len(succeeded(tmp_path / "run")) == len(succeeded(whole))
    assert tried(tmp_path / "run") == tried(whole)


def start(folder: Path, log: Path, rollouts: int, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAM), str(folder), str(log), str(rollouts), *options]
    return subprocess.Popen(command, start_new_session=True)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.timeout(300)
def test_after_kill_9_in_a_rollout_it_goes_on_and_pays_for_nothing_twice(
    tmp_path: Path, undisturbed: tuple[Path, Optimiser]
) -> None:
    whole, reference = undisturbed
    rollouts = 75
    folder, log = tmp_path / "run", tmp_path / "calls"
    run = start(folder, log, rollouts)
    try:
        deadline = time.monotonic() + DEADLINE
        while len(lines(log.with_suffix(".rollouts"))) < rollouts:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        while len(replies(folder)) < len(lines(log)):  # what was answered is written down
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait(DEADLINE)
    before = succeeded(folder)
    resumed = start(folder, log, 10_000, "--resume")
    try:
        assert resumed.wait(DEADLINE) == 0
    finally:
        if resumed.poll() is None:
            os.killpg(resumed.pid, signal.SIGKILL)
            resumed.wait(DEADLINE)
    assert Counter(lines(log)) == reference.answered
    assert before.items() <= succeeded(folder).items()
    assert max(Counter(succeeded(folder).values()).values()) == 1
    assert tried(folder) == tried(whole)


def replies(folder: Path) -> list[Any]:
    records = [json.loads(line) for line in lines(folder / "journal.jsonl")]
    return [record for record in records if record["kind"] == "reply"]


def test_another_setting_asks_anew_what_it_changes(tmp_path: Path, undisturbed: tuple[Path, Optimiser]) -> None:
    first, second = Optimiser(), Optimiser()
    train(first, [], run_dir=tmp_path, beam_rounds=1)
    _, result = train(second, [], resume=tmp_path, beam_rounds=4)
    assert first.answered + second.answered == undisturbed[1].answered, "more rounds cost no more than they are"
    assert result.score == 1.0
    third = Optimiser()
    train(third, [], resume=tmp_path, beam_rounds=1, gradient_model="another")
    assert {json.loads(said)[0] for said in third.asked} == {"another"}, "edits of the same critique are known"


def test_what_critics_read_stays_the_same_when_spans_are_lost_or_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(Optimiser(), [], run_dir=tmp_path, beam_rounds=1)

    async def none(self: PromptEvaluator, scored: Scored) -> list[Any]:
        return []

    monkeypatch.setattr(PromptEvaluator, "spans", none)
    again = Optimiser()
    train(again, [], resume=tmp_path, beam_rounds=1)
    assert again.asked == []


class Refusal(Exception):
    status_code = 400


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"gradient_model": "another"},
        {"apply_edit_model": "another"},
        {"diversity_temperature": 0.5},
        {"gradient_prompt_files": "critique.txt"},
        {"apply_edit_prompt_files": "edit.txt"},
    ],
    ids=lambda change: next(iter(change), "nothing"),
)
def test_what_was_given_up_is_asked_for_again_if_that_is_asked_otherwise(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "critique.txt").write_text("<prompt>\n{{ prompt_template }}\n</prompt>\n{{ experiments }}")
    (tmp_path / "edit.txt").write_text("<prompt>\n{{ prompt_template }}\n</prompt>\n<critique>{{ critique }}")
    options = {name: str(tmp_path / value) if name.endswith("files") else value for name, value in change.items()}

    def given_up(optimiser: Optimiser, **settings: Any) -> int:
        algorithm, _ = train(optimiser, [], beam_rounds=1, beam_width=1, branch_factor=3, **settings)
        assert algorithm.history is not None
        return sum("did not answer" in (each.dropped or "") for each in algorithm.history.rounds[0].dropped)

    refusing = Optimiser(spoil=lambda number, said: Refusal("no") if number == 2 else None)
    assert given_up(refusing, run_dir=tmp_path / "run") == 1
    again = Optimiser()
    assert given_up(again, resume=tmp_path / "run", **options) == (0 if change else 1)
    assert bool(again.asked) is bool(change)
