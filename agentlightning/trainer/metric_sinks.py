"""Metrics to where people look at them: TensorBoard, Weights & Biases, Trackio, MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from agentlightning.algorithm.metrics_log import MetricsListener
from agentlightning.extras import needed_for

MetricsSink: TypeAlias = Literal["tensorboard", "wandb", "trackio", "mlflow"]

_Write: TypeAlias = Callable[[dict[str, float], int], None]

_PROJECT: Final = "agentlightning"


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
    """Writes the numbers of each record; it opens with the first, in the process that has it."""

    def __init__(self, name: MetricsSink, run_dir: Path | None) -> None:
        self._name: MetricsSink = name
        self._run_dir = run_dir
        self._write: _Write | None = None
        self._step = 0

    def __call__(self, record: Mapping[str, Any]) -> None:
        if self._write is None:
            self._write = _OPENERS[self._name](import_module(_MODULES[self._name]), self._run_dir)
        self._step = int(record.get("step", self._step))
        prefix = f"{record['kind']}/" if "kind" in record else ""
        numbers = {prefix + key: float(value) for key, value in record.items() if _is_number(value)}
        self._write(numbers, self._step)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _open_tensorboard(library: Any, run_dir: Path | None) -> _Write:
    writer = library.SummaryWriter(str((run_dir or Path("runs")) / "tensorboard"))

    def write(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def _open_wandb(library: Any, run_dir: Path | None) -> _Write:
    run = library.init(project=_PROJECT, name=_name_of(run_dir))
    return lambda numbers, step: run.log({**numbers, "step": step})


def _open_trackio(library: Any, run_dir: Path | None) -> _Write:
    run = library.init(project=_PROJECT, name=_name_of(run_dir))
    return lambda numbers, step: run.log({**numbers, "step": step})


def _open_mlflow(library: Any, run_dir: Path | None) -> _Write:
    library.set_experiment(_PROJECT)
    library.start_run(run_name=_name_of(run_dir))
    return lambda numbers, step: library.log_metrics(numbers, step=step)


def _name_of(run_dir: Path | None) -> str | None:
    return run_dir.name if run_dir else None


_MODULES: Final[dict[MetricsSink, str]] = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
_OPENERS: Final[dict[MetricsSink, Callable[[Any, Path | None], _Write]]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "trackio": _open_trackio,
    "mlflow": _open_mlflow,
}
