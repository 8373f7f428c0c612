"""Metrics to where people look at them: TensorBoard, Weights & Biases, Trackio, MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from agentlightning.algorithm.metrics_log import MetricsListener
from agentlightning.extras import needed_for

MetricsSink: TypeAlias = Literal["tensorboard", "wandb", "trackio", "mlflow"]

_PROJECT: Final = "agentlightning"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where numbers go, opened."""

    write: Callable[[dict[str, float], int], object]
    close: Callable[[], object]


def open_sinks(names: Sequence[MetricsSink], run_dir: Path | None) -> list[MetricsListener]:
    """Return what writes metrics elsewhere, too.

    Args:
        names: Where to.
        run_dir: The run's folder, after which the run is named there.

    Raises:
        MissingExtra: The library that it takes is not installed.
    """
    for name in names:
        with needed_for(f"metrics in {name}"):
            import_module(_MODULES[name])
    return [_Sink(name, run_dir) for name in names]


class _Sink:
    """Writes the numbers of each record; it opens with the first since it was made or closed, in whatever process."""

    def __init__(self, name: MetricsSink, run_dir: Path | None) -> None:
        self._name: MetricsSink = name
        self._run_dir = run_dir
        self._place: _Place | None = None
        self._step = 0

    def __call__(self, record: Mapping[str, Any]) -> None:
        if self._place is None:
            self._place = _OPENERS[self._name](import_module(_MODULES[self._name]), self._run_dir)
        self._step = int(record.get("step", self._step))
        prefix = f"{record['kind']}/" if "kind" in record else ""
        numbers = {prefix + key: float(value) for key, value in record.items() if _is_number(value)}
        self._place.write(numbers, self._step)

    def close(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.close()

    def __repr__(self) -> str:
        return self._name


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _open_tensorboard(library: Any, run_dir: Path | None) -> _Place:
    writer = library.SummaryWriter(str((run_dir or Path("runs")) / "tensorboard"))

    def write(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return _Place(write, writer.close)


def _open_wandb(library: Any, run_dir: Path | None) -> _Place:
    run = library.init(project=_PROJECT, name=_name_of(run_dir))
    return _Place(lambda numbers, step: run.log({**numbers, "step": step}), run.finish)


def _open_trackio(library: Any, run_dir: Path | None) -> _Place:
    run = library.init(project=_PROJECT, name=_name_of(run_dir))
    return _Place(lambda numbers, step: run.log({**numbers, "step": step}), run.finish)


def _open_mlflow(library: Any, run_dir: Path | None) -> _Place:
    library.set_experiment(_PROJECT)
    library.start_run(run_name=_name_of(run_dir))
    return _Place(lambda numbers, step: library.log_metrics(numbers, step=step), library.end_run)


def _name_of(run_dir: Path | None) -> str | None:
    return run_dir.name if run_dir else None


_MODULES: Final[dict[MetricsSink, str]] = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
_OPENERS: Final[dict[MetricsSink, Callable[[Any, Path | None], _Place]]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "trackio": _open_trackio,
    "mlflow": _open_mlflow,
}
