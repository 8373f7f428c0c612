"""What a run gives its algorithm beside the store: rollouts in bulk, metrics, checkpoints, and where to keep them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from agentlightning._internal.folders import write_whole
from agentlightning.algorithm.checkpoints import Checkpoint, Checkpoints
from agentlightning.algorithm.metrics_log import MetricsListener, MetricsLog
from agentlightning.algorithm.rounds import FailurePolicy, Leftovers, Place, Round, read_leftovers
from agentlightning.store import LightningStore
from agentlightning.types import NamedResources, RolloutConfig, RolloutMode

if TYPE_CHECKING:
    from agentlightning.execution import ExecutionEvent

METRICS_FILE: Final = "metrics.jsonl"
BEST_FILE: Final = "best.json"
ROUNDS_FILE: Final = "rounds.jsonl"
CHECKPOINTS_FOLDER: Final = "checkpoints"

_RESOURCES: Final = TypeAdapter[NamedResources](NamedResources)


@dataclass(frozen=True, slots=True)
class Best:
    """The best resources that an algorithm found.

    Attributes:
        score: How good they are; higher is better.
        resources: The resources.
    """

    score: float
    resources: NamedResources


class AlgorithmContext:
    """The hands of an algorithm.

    Args:
        store: Where rollouts and resources go.
        run_dir: The run's folder; None keeps nothing on disk.
        run_id: Names the run in what it leaves in the store, if it may be resumed.
        resuming: Whether the folder is that of a run that goes on. Metrics behind its newest checkpoint are taken back,
            for they come again.
        event: Says that the run is to end early; None if nothing says so.
        on_metrics: Called with each record of the metrics.

    Attributes:
        store: The store.
        run_dir: The folder, or None.
        resuming: Whether there is a run to go on with.
        event: The stop event, or None.
        best: The best resources so far, or None.
        metrics: The newest value of each metric.
    """

    def __init__(
        self,
        store: LightningStore,
        *,
        run_dir: Path | None = None,
        run_id: str | None = None,
        resuming: bool = False,
        event: ExecutionEvent | None = None,
        on_metrics: Sequence[MetricsListener] = (),
    ) -> None:
        self.store = store
        self.run_dir = run_dir
        self.run_id = run_id
        self.resuming = resuming
        self.event = event
        self._log = MetricsLog(run_dir / METRICS_FILE if run_dir else None, on_metrics)
        checkpoints = Checkpoints(run_dir / CHECKPOINTS_FOLDER) if run_dir else None
        self._checkpoints = checkpoints
        self._resumed_from = checkpoints.latest() if checkpoints and resuming else None
        if resuming:
            self._log.cut(self._resumed_from.state["metrics_bytes"] if self._resumed_from else 0)
        self.best: Best | None = read_best(run_dir) if resuming else None
        self.metrics: dict[str, Any] = read_metrics(run_dir) if resuming else {}
        self._leftovers: Leftovers | None = None
        self._rounds: list[Round] = []

    def rollouts(
        self,
        tasks: Sequence[Any],
        *,
        mode: RolloutMode = "train",
        resources_id: str | None = None,
        samples: int = 1,
        key: str | None = None,
        config: RolloutConfig | None = None,
        retries: int = 0,
        timeout: float | None = None,
        quorum: float = 1.0,
        failures: FailurePolicy = "keep",
    ) -> Round:
        """Return a round of rollouts, which runs while `async for` asks it for its outcomes.

        See `Round` for the arguments.

        Raises:
            ConfigurationError: A number is out of range.
        """
        sampled = Round(
            store=self.store,
            tasks=tasks,
            mode=mode,
            resources_id=resources_id,
            samples=samples,
            key=key,
            run_id=self.run_id,
            read_leftovers=self._read_leftovers,
            on_end=self._note_end if self.run_dir else None,
            config=config,
            retries=retries,
            timeout=timeout,
            quorum=quorum,
            failures=failures,
        )
        self._rounds.append(sampled)
        return sampled

    def _note_end(self, key: str, ended: Mapping[Place, str]) -> None:
        assert self.run_dir is not None  # else nobody notes
        if self.event is not None and self.event.is_set():
            return  # what the runners were stopped in has failed, and a resumed run runs it again
        places = [[*place, rollout_id] for place, rollout_id in ended.items()]
        with (self.run_dir / ROUNDS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "places": places}) + "\n")

    async def _read_leftovers(self) -> Leftovers:
        if self._leftovers is None:
            self._leftovers = {}
            if self.resuming and self.run_id is not None:
                self._leftovers = await read_leftovers(self.store, self.run_id, _read_ended(self.run_dir))
        return self._leftovers

    async def publish(self, resources: NamedResources) -> str:
        """Store resources as the newest; returns their id."""
        return (await self.store.add_resources(resources)).resources_id

    def log(self, record: Mapping[str, Any]) -> None:
        """Write a record of metrics; it is in the run's folder when this returns."""
        self.metrics.update(self._log.write(record))

    def keep_best(self, score: float, resources: NamedResources) -> bool:
        """Keep resources if they are the best so far; returns whether they are."""
        if self.best is not None and score <= self.best.score:
            return False
        self.best = Best(score, dict(resources))
        if self.run_dir is not None:
            content = {"score": score, "resources": _RESOURCES.dump_python(self.best.resources, mode="json")}
            write_whole(self.run_dir / BEST_FILE, json.dumps(content, indent=2))
        return True

    def save_checkpoint(self, step: int, write: Callable[[Path], object], state: Mapping[str, Any]) -> Path | None:
        """Write what a resumed run goes on from; returns its folder, or None without a run's folder.

        Args:
            step: The last step that is in it.
            write: Writes the algorithm's own files into a folder.
            state: JSON that `latest_checkpoint` gives back.
        """
        if self._checkpoints is None:
            return None
        return self._checkpoints.save(step, write, {"metrics_bytes": self._log.size, "algorithm": dict(state)})

    def latest_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint to go on from, or None to begin anew."""
        found = self._resumed_from
        return Checkpoint(found.step, found.folder, found.state["algorithm"]) if found else None

    async def close(self) -> None:
        """Cancel what is left of rounds, and close the metrics' file and listeners."""
        try:
            for sampled in self._rounds:
                await sampled.cancel()
        finally:
            self._log.close()


def read_metrics(run_dir: Path | None) -> dict[str, Any]:
    """Return the newest value of each metric that a run's folder holds."""
    merged: dict[str, Any] = {}
    for record in _read_lines(run_dir, METRICS_FILE):
        merged |= record
    return merged


def _read_ended(run_dir: Path | None) -> dict[str, dict[Place, str]]:
    """Return the rollouts of each round that had ended."""
    return {
        record["key"]: {(task, sample): rollout_id for task, sample, rollout_id in record["places"]}
        for record in _read_lines(run_dir, ROUNDS_FILE)
    }


def _read_lines(run_dir: Path | None, name: str) -> Iterator[dict[str, Any]]:
    path = run_dir / name if run_dir else None
    if path is None or not path.exists():
        return
    for line in path.read_text("utf-8").split("\n")[:-1]:  # what a killed process was writing has no end
        try:
            yield json.loads(line)
        except ValueError:  # two halves of lines, of two processes that were killed
            continue


def read_best(run_dir: Path | None) -> Best | None:
    """Return the best resources that a run's folder holds, or None."""
    path = run_dir / BEST_FILE if run_dir else None
    if path is None or not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return Best(content["score"], _RESOURCES.validate_python(content["resources"]))
