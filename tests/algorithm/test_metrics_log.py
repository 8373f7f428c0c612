from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm import AlgorithmContext
from agentlightning.trainer.run_folder import read_run


class Number:
    """A number as NumPy and PyTorch have it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tolist(self) -> Any:
        return self.value


NUMBERS: dict[str, Any] = {
    "loss": Number(0.5),
    "of": {"each": [Number([1, 2])]},
    "nan": math.nan,
    "most": (math.inf, -math.inf),
    "where": Path("here"),
}
PLAIN = {"loss": 0.5, "of": {"each": [[1, 2]]}, "where": "here"}


class Listener:
    def __init__(self, *, fails: bool = False) -> None:
        self.heard: list[Mapping[str, Any]] = []
        self.closed = 0
        self.fails = fails

    def __call__(self, record: Mapping[str, Any]) -> None:
        self.heard.append(record)
        if self.fails:
            raise OSError("the network is down")

    def close(self) -> None:
        self.closed += 1
        if self.fails:
            raise OSError("the network is down")


@pytest.mark.parametrize("kept", [True, False])
async def test_numbers_of_libraries_become_plain_ones(tmp_path: Path, kept: bool) -> None:
    heard: list[Mapping[str, Any]] = []
    store = agl.InMemoryLightningStore()
    context = AlgorithmContext(store, run_dir=tmp_path if kept else None, on_metrics=[heard.append])
    context.log(NUMBERS)
    await context.close()
    for record in (heard[0], context.metrics):
        assert {key: record[key] for key in PLAIN} == PLAIN
        assert math.isnan(record["nan"])


def test_numbers_are_numpy_s_and_pytorch_s_too() -> None:
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    context = AlgorithmContext(agl.InMemoryLightningStore())
    context.log({"a": numpy.float32(0.5), "b": torch.tensor(0.25), "c": numpy.bool_(True), "d": numpy.arange(2)})
    assert context.metrics == {"a": 0.5, "b": 0.25, "c": True, "d": [0, 1]}
    assert [type(value) for value in context.metrics.values()] == [float, float, bool, list]


async def test_file_is_json_whatever_the_numbers_are(tmp_path: Path) -> None:
    context = AlgorithmContext(agl.InMemoryLightningStore(), run_dir=tmp_path)
    context.log(NUMBERS)
    await context.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == PLAIN | {"nan": None, "most": [None, None]}


async def test_listener_that_fails_is_named_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Listener(fails=True), Listener()
    context = AlgorithmContext(agl.InMemoryLightningStore(), on_metrics=[first, second])
    for step in range(3):
        context.log({"step": step})
    await context.close()
    assert len(first.heard) == len(second.heard) == 3
    (record,) = caplog.records
    assert (record.levelname, "the network is down" in (record.exc_text or str(record.exc_info))) == ("ERROR", True)
    assert (first.closed, second.closed) == (1, 1)


def test_run_whose_metrics_are_of_libraries_is_written_down(tmp_path: Path) -> None:
    @agl.algo
    async def learn(context: AlgorithmContext) -> None:
        context.log({"loss": Number(0.5), "nan": math.nan})

    @agl.rollout
    async def agent(task: int) -> float:
        return 1.0

    listener = Listener()
    trainer = agl.Trainer(algorithm=learn, run_dir=tmp_path / "run", on_metrics=listener)
    trainer.fit(agent)
    asyncio.run(trainer.store.close())
    assert read_run(tmp_path / "run").metrics == {"loss": 0.5, "nan": None}
    assert listener.closed == 1
