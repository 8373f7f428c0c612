from __future__ import annotations

import asyncio
import fcntl
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm import AlgorithmContext
from agentlightning.errors import ConfigurationError
from agentlightning.trainer.run_folder import RunFolder, is_held, read_run


@agl.rollout
async def double(task: int) -> float:
    return task * 2.0


@agl.algo
async def learn(context: AlgorithmContext, train_dataset: list[int]) -> None:
    async for outcome in context.rollouts(train_dataset, key="all"):
        context.log({"reward": outcome.reward, "task": outcome.task})
    context.keep_best(0.75, {"prompt": agl.PromptTemplate(template="best", engine="f-string")})
    await context.publish({"prompt": agl.PromptTemplate(template="newest", engine="f-string")})


def close(trainer: agl.Trainer) -> None:
    asyncio.run(trainer.store.close())


def test_fit_gives_back_what_the_algorithm_found(tmp_path: Path) -> None:
    trainer = agl.Trainer(algorithm=learn, run_dir=tmp_path / "run")
    result = trainer.fit(double, [1, 2, 3])
    close(trainer)
    assert result.resources == {"prompt": agl.PromptTemplate(template="best", engine="f-string")}
    assert (result.score, result.rollouts, result.run_dir) == (0.75, {"succeeded": 3}, tmp_path / "run")
    assert result.metrics.keys() == {"reward", "task"}
    assert result.seconds > 0


def test_without_a_best_the_newest_resources_are_given_back() -> None:
    result = agl.Trainer(initial_resources={}).dev(double, [1])
    assert (result.resources, result.score, result.rollouts, result.run_dir) == ({}, None, {"succeeded": 1}, None)


def test_folder_says_what_was_run_and_how_it_ended(tmp_path: Path) -> None:
    trainer = agl.Trainer(algorithm=learn, n_runners=2, run_dir=tmp_path)
    trainer.fit(double, [1, 2])
    close(trainer)
    record = read_run(tmp_path)
    assert (record.state, record.error, record.rollouts, record.resumed) == ("succeeded", None, {"succeeded": 2}, 0)
    assert record.ended_at is not None
    assert record.started_at <= record.ended_at
    assert record.components["n_runners"] == 2
    assert record.components["tracer"] == "agentlightning.tracer.otel.OtelTracer"
    assert {"run.json", "store.db", "metrics.jsonl", "best.json"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("error", "state"), [(LookupError("lost"), "failed"), (KeyboardInterrupt("stop"), "interrupted")], ids=str
)
def test_folder_says_why_a_run_ended_early(tmp_path: Path, error: BaseException, state: str) -> None:
    folder = RunFolder(tmp_path, resuming=False)

    def run() -> None:
        with folder.running():
            assert read_run(tmp_path).state == "running"
            raise error

    with pytest.raises(type(error)):
        run()
    record = read_run(tmp_path)
    assert (record.state, record.error) == (state, f"{type(error).__name__}: {error}")


def test_a_folder_takes_one_run_and_goes_on_with_it_on_demand_only(tmp_path: Path) -> None:
    trainer = agl.Trainer(algorithm=learn, run_dir=tmp_path)
    trainer.fit(double, [1, 2])
    close(trainer)
    with pytest.raises(ConfigurationError, match="holds a run already"):
        trainer.fit(double, [1, 2])
    resumed = agl.Trainer(algorithm=learn)
    result = resumed.fit(double, [1, 2, 3], resume=tmp_path)
    close(resumed)
    assert result.rollouts == {"succeeded": 3}
    assert read_run(tmp_path).resumed == 1


def test_folder_without_a_run_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no run"):
        agl.Trainer(algorithm=learn).fit(double, [1], resume=tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"state": "lost"}))
    with pytest.raises(ConfigurationError, match="is not what a run writes"):
        agl.Trainer(algorithm=learn).fit(double, [1], resume=tmp_path)


def _hold(path: Path, held: Any, done: Any) -> None:
    with RunFolder(path, resuming=False).running():
        held.set()
        done.wait(60)


def test_folder_in_which_another_process_works_is_refused(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    held, done = processes.Event(), processes.Event()
    other = processes.Process(target=_hold, args=(tmp_path, held, done))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(ConfigurationError, match="another process works in"):
            agl.Trainer(algorithm=learn).fit(double, [1], resume=tmp_path)
    finally:
        done.set()
        other.join(60)
    assert read_run(tmp_path).state == "succeeded"


def test_to_look_whether_a_folder_is_held_changes_nothing_there(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []
    folder = RunFolder(tmp_path, resuming=False)
    with folder.running():
        assert is_held(tmp_path)
    descriptor = _look(tmp_path)
    try:
        assert not is_held(tmp_path)  # for who looks at the same time holds nothing
    finally:
        os.close(descriptor)


def test_run_begins_although_somebody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lock").touch()
    looks = [_look(tmp_path)]

    def pause(_: float) -> None:
        os.close(looks.pop())  # who looked has seen it

    monkeypatch.setattr(time, "sleep", pause)
    with RunFolder(tmp_path, resuming=False).running():
        assert not looks


def _look(folder: Path) -> int:
    descriptor = os.open(folder / ".lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def test_store_that_was_given_is_used(tmp_path: Path) -> None:
    store = agl.InMemoryLightningStore()
    trainer = agl.Trainer(algorithm=learn, store=store, run_dir=tmp_path)
    assert trainer.fit(double, [1]).rollouts == {"succeeded": 1}
    assert trainer.store is store
    assert not (tmp_path / "store.db").exists()
