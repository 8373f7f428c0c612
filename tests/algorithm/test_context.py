from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm import AlgorithmContext


@pytest.fixture
def store() -> agl.LightningStore:
    return agl.InMemoryLightningStore()


def test_without_a_folder_nothing_is_written_and_all_is_heard(store: agl.LightningStore) -> None:
    heard: list[Mapping[str, Any]] = []
    context = AlgorithmContext(store, on_metrics=[heard.append])
    context.log({"loss": 2.0, "step": 1})
    context.log({"loss": 1.0})
    assert heard == [{"loss": 2.0, "step": 1}, {"loss": 1.0}]
    assert context.metrics == {"loss": 1.0, "step": 1}
    assert context.save_checkpoint(1, lambda _: None, {}) is None
    assert context.latest_checkpoint() is None


def test_best_resources_are_kept_and_found_again(store: agl.LightningStore, tmp_path: Path) -> None:
    def prompt(text: str) -> dict[str, Any]:
        return {"prompt": agl.PromptTemplate(template=text, engine="f-string")}

    context = AlgorithmContext(store, run_dir=tmp_path)
    assert [context.keep_best(score, prompt(str(score))) for score in (0.5, 0.4, 0.5, 0.6)] == [
        True,
        False,
        False,
        True,
    ]
    resumed = AlgorithmContext(store, run_dir=tmp_path, resuming=True)
    assert resumed.best is not None
    assert (resumed.best.score, resumed.best.resources) == (0.6, prompt("0.6"))
    assert not resumed.keep_best(0.55, prompt("0.55"))


async def test_resumed_run_goes_on_at_the_newest_checkpoint_and_its_metrics(
    store: agl.LightningStore, tmp_path: Path
) -> None:
    context = AlgorithmContext(store, run_dir=tmp_path)
    for step in range(1, 5):
        context.log({"step": step})
        if step < 4:
            context.save_checkpoint(step, lambda folder, step=step: (folder / "w").write_text(str(step)), {"at": step})
    await context.close()
    resumed = AlgorithmContext(store, run_dir=tmp_path, resuming=True)
    checkpoint = resumed.latest_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state, (checkpoint.folder / "w").read_text()) == (3, {"at": 3}, "3")
    resumed.log({"step": "again"})
    await resumed.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, "again"]


async def test_metrics_of_a_resumed_run_without_checkpoints_come_anew_and_no_torn_line_spoils_them(
    store: agl.LightningStore, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste')
    resumed = AlgorithmContext(store, run_dir=tmp_path, resuming=True)
    resumed.log({"step": 1})
    await resumed.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


async def test_metrics_of_a_resumed_run_begin_where_its_checkpoint_was(
    store: agl.LightningStore, tmp_path: Path
) -> None:
    context = AlgorithmContext(store, run_dir=tmp_path)
    context.log({"loss": 2.0})
    context.save_checkpoint(1, lambda _: None, {})
    await context.close()
    assert AlgorithmContext(store, run_dir=tmp_path, resuming=True).metrics == {"loss": 2.0}


def test_a_new_run_does_not_look_for_checkpoints(store: agl.LightningStore, tmp_path: Path) -> None:
    context = AlgorithmContext(store, run_dir=tmp_path)
    context.save_checkpoint(1, lambda _: None, {})
    assert context.latest_checkpoint() is None


def test_old_and_unfinished_checkpoints_are_removed(store: agl.LightningStore, tmp_path: Path) -> None:
    context = AlgorithmContext(store, run_dir=tmp_path)
    (tmp_path / "checkpoints" / ".step-00000001-killed").mkdir(parents=True)
    for step in range(1, 5):
        context.save_checkpoint(step, lambda _: None, {})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000004"]


def test_checkpoint_that_cannot_be_written_leaves_the_others(store: agl.LightningStore, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    context = AlgorithmContext(store, run_dir=tmp_path)
    context.save_checkpoint(1, lambda _: None, {"kept": True})
    with pytest.raises(OSError, match="disk full"):
        context.save_checkpoint(2, fail, {})
    checkpoint = AlgorithmContext(store, run_dir=tmp_path, resuming=True).latest_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state) == (1, {"kept": True})


async def test_function_gets_the_context_by_name_and_an_algorithm_without_a_run_has_one(
    store: agl.LightningStore,
) -> None:
    seen: list[AlgorithmContext] = []

    @agl.algo
    async def look(context: AlgorithmContext) -> None:
        seen.append(context)

    look.set_store(store)
    await look.run()  # type: ignore[misc]  # it is async
    assert seen == [look.get_context()]
    assert seen[0].store is store
