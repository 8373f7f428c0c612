from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

import agentlightning as agl
from agentlightning.algorithm import AlgorithmContext
from agentlightning.errors import MissingExtra
from agentlightning.trainer.metric_sinks import MetricsSink, open_sinks


@agl.algo
async def learn(context: AlgorithmContext) -> None:
    context.log({"kind": "evaluation", "reward": 0.25, "name": "before"})
    for step in (1, 2):
        context.log({"kind": "step", "step": step, "reward": step / 2, "done": step == 2})


@agl.rollout
async def agent(task: int) -> float:
    return 1.0


def test_tensorboard_shows_every_number_at_its_step(tmp_path: Path) -> None:
    trainer = agl.Trainer(algorithm=learn, on_metrics=open_sinks(["tensorboard"], tmp_path))
    trainer.fit(agent)
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert list(read_events(path)) == [
        ("evaluation/reward", 0.25, 0),
        ("step/step", 1.0, 1),
        ("step/reward", 0.5, 1),
        ("step/step", 2.0, 2),
        ("step/reward", 1.0, 2),
    ]


def read_events(path: Path) -> Iterator[tuple[str, float, int]]:
    """Read a file of TFRecords: length, its checksum, that many bytes of an event, their checksum."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            yield value.tag, value.simple_value, event.step


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_library_that_is_missing_is_named_with_its_extra(name: MetricsSink) -> None:
    if importlib.util.find_spec(name) is not None:
        assert len(open_sinks([name], None)) == 1
        return
    with pytest.raises(MissingExtra, match=rf"metrics in {name}.*\[{name}\]"):
        open_sinks([name], None)


class Library:
    """Stands in for a library of metrics: it notes what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            return self  # what `init` returns has the run's methods

        return call


OPENED = {"project": "agentlightning", "name": "my-run"}
FIRST = {"evaluation/reward": 0.25}
LAST = {"step/step": 2.0, "step/reward": 1.0}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_run_is_opened_filled_and_finished(name: MetricsSink, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of(name, monkeypatch)
    assert calls[0] == ("init", (), OPENED)
    assert calls[1] == ("log", (FIRST | {"step": 0},), {})
    assert calls[-2:] == [("log", (LAST | {"step": 2},), {}), ("finish", (), {})]


def test_mlflow_s_run_is_opened_filled_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of("mlflow", monkeypatch)
    assert calls[:2] == [("set_experiment", ("agentlightning",), {}), ("start_run", (), {"run_name": "my-run"})]
    assert calls[2] == ("log_metrics", (FIRST,), {"step": 0})
    assert calls[-2:] == [("log_metrics", (LAST,), {"step": 2}), ("end_run", (), {})]


def calls_of(name: MetricsSink, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    library = Library()
    monkeypatch.setitem(sys.modules, name, library)
    agl.Trainer(algorithm=learn, on_metrics=open_sinks([name], Path("runs/my-run"))).fit(agent)
    return library.calls


def test_tensorboard_s_writer_is_closed_and_a_later_run_opens_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[Library] = []

    def open_writer(folder: str) -> Library:
        assert folder == str(tmp_path / "tensorboard")
        writers.append(Library())
        return writers[-1]

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=open_writer))
    trainer = agl.Trainer(algorithm=learn, on_metrics=open_sinks(["tensorboard"], tmp_path))
    trainer.fit(agent)
    trainer.fit(agent)
    assert [[name for name, *_ in writer.calls].count("close") for writer in writers] == [1, 1]
    assert [writer.calls[-1][0] for writer in writers] == ["close", "close"]
