from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path

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
