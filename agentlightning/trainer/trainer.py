"""The trainer: one call that runs an algorithm and its runners on a store, wherever they live."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

from agentlightning.adapter import TraceAdapter, TracerTraceToTriplet
from agentlightning.algorithm import Algorithm, Baseline, FastAlgorithm
from agentlightning.algorithm.context import read_metrics
from agentlightning.algorithm.metrics_log import MetricsListener
from agentlightning.algorithm.rounds import settle_leftovers
from agentlightning.errors import ConfigurationError
from agentlightning.execution import ExecutionStrategy, SharedMemoryExecutionStrategy
from agentlightning.execution.loop_thread import run_to_result
from agentlightning.litagent import LitAgent
from agentlightning.llm_proxy import LLMProxy
from agentlightning.runner import LitAgentRunner, Runner
from agentlightning.runner.work import RunnerWork
from agentlightning.store import InMemoryLightningStore, LightningStore, SqliteLightningStore
from agentlightning.tracer import OtelTracer, Tracer
from agentlightning.trainer import silence as silence_limit
from agentlightning.trainer.bundles import AlgorithmWork
from agentlightning.trainer.components import ComponentSpec, OptionalDefaults, build_component, instantiate_component
from agentlightning.trainer.deprecated import renamed, warn_of_flags
from agentlightning.trainer.registry import ComponentKind, Registry
from agentlightning.trainer.result import TrainingResult, describe, summarize
from agentlightning.trainer.run_folder import STORE_FILE, RunFolder
from agentlightning.types import Dataset, Hook, NamedResources

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Trainer:
    """Runs an algorithm and its runners on a store.

    Every component may be given as an instance, a class, a factory, a registered name or dotted path, or a dict with
    `type` and the constructor's arguments; `Registry` says which names there are, and how packages add theirs.

    Args:
        dev: Without effect; call `dev` instead.
        n_runners: How many runners; an initialised `strategy` that says otherwise wins, with a warning. 0 is for the
            client-server strategy, whose runners then all come from elsewhere.
        max_rollouts: The most rollouts of each runner; None for no limit. A runner that was given as an instance keeps
            its own limit.
        initial_resources: Handed to the algorithm.
        tracer: Records what agents do; `OtelTracer` by default.
        adapter: Turns spans into training data; `TracerTraceToTriplet` by default, and for a dict without `type`.
        store: Where everything lives; in memory by default, `SqliteLightningStore(path)` to keep it.
        runner: Runs the agent; `LitAgentRunner` by default. Each worker gets a copy of its own.
        strategy: Where algorithm and runners live; `shm`, everything in this process, by default.
        port: Where a client-server strategy serves the store; wins over what the strategy says.
        algorithm: What learns; None lets the runners serve whoever fills the store.
        llm_proxy: The gateway, which is up for as long as a run lasts; None lets an algorithm that needs one make its
            own.
        n_workers: The old name of `n_runners`, which wins.
        max_tasks: The old name of `max_rollouts`, which wins.
        daemon: Without effect.
        triplet_exporter: The old name of `adapter`, which wins.
        hooks: Called around every rollout.
        run_dir: Folder that `fit` makes for its run: `run.json` (what was run and how it ended), `metrics.jsonl`, the
            store (`store.db`) unless one is given, and what the algorithm leaves there. None keeps none.
        on_metrics: Called with each record of the algorithm's metrics, in the algorithm's process.

    Raises:
        ConfigurationError: A component cannot be made.
        WrongComponent: A component is something else.
    """

    def __init__(
        self,
        *,
        dev: bool = False,
        n_runners: int | None = None,
        max_rollouts: int | None = None,
        initial_resources: NamedResources | None = None,
        tracer: ComponentSpec[Tracer] = None,
        adapter: ComponentSpec[TraceAdapter[Any]] = None,
        store: ComponentSpec[LightningStore] = None,
        runner: ComponentSpec[Runner[Any]] = None,
        strategy: ComponentSpec[ExecutionStrategy] = None,
        port: int | None = None,
        algorithm: ComponentSpec[Algorithm] = None,
        llm_proxy: ComponentSpec[LLMProxy] = None,
        n_workers: int | None = None,
        max_tasks: int | None = None,
        daemon: bool = True,
        triplet_exporter: ComponentSpec[TraceAdapter[Any]] = None,
        hooks: Hook | Sequence[Hook] | None = None,
        run_dir: str | Path | None = None,
        on_metrics: MetricsListener | Sequence[MetricsListener] = (),
    ) -> None:
        warn_of_flags(dev, daemon)
        n_runners = renamed("n_runners", n_runners, "n_workers", n_workers)
        adapter = renamed("adapter", adapter, "triplet_exporter", triplet_exporter)
        self.max_rollouts: int | None = renamed("max_rollouts", max_rollouts, "max_tasks", max_tasks)
        self.initial_resources = initial_resources
        self.port = port
        self.daemon = daemon
        self.tracer: Tracer = _needed("tracer", tracer, Tracer, OtelTracer)
        self.adapter: TraceAdapter[Any] = _needed(
            "adapter", adapter, TraceAdapter, TracerTraceToTriplet, dict_default_cls=TracerTraceToTriplet
        )
        self.algorithm = _optional("algorithm", algorithm, Algorithm)
        self.strategy = _strategy(strategy, n_runners, port)
        self.n_runners = self.strategy.n_runners
        self._given_store = store is not None
        self._configured_store: LightningStore = _needed("store", store, LightningStore, InMemoryLightningStore)
        self.store = self._configured_store
        self.runner = self._build_runner(runner, tracer is not None)
        self.llm_proxy = _optional("llm_proxy", llm_proxy, LLMProxy, {"store": lambda: self.store})
        self.hooks = (hooks,) if isinstance(hooks, Hook) else tuple(hooks or ())
        self.n_workers, self.max_tasks, self.triplet_exporter = self.n_runners, self.max_rollouts, self.adapter
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.on_metrics = (on_metrics,) if callable(on_metrics) else tuple(on_metrics)

    def fit(
        self,
        agent: LitAgent[Any],
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
        resume: str | Path | None = None,
    ) -> TrainingResult:
        """Train: run the algorithm on the datasets while the runners run the agent; returns when it has ended.

        Works from a script and where an event loop runs already (a notebook).

        Args:
            agent: What to train.
            train_dataset: Tasks to learn from.
            val_dataset: Tasks to measure with.
            resume: Folder of an earlier run, to go on where it ended however that was; agent, datasets and algorithm
                should be the same. What had succeeded in it is not run again.

        Raises:
            ConfigurationError: The run's folder holds a run already, or none to go on with, or is in use.
            KeyboardInterrupt: Ctrl+C, after everything was stopped; what was finished is in the store.
            Exception: Whatever the algorithm or a runner raised.
        """
        silence = silence_limit.SECONDS if self.strategy.supervises and not silence_limit.being_debugged() else None
        folder = None
        if resume is not None and self.run_dir is not None and Path(resume).absolute() != self.run_dir.absolute():
            raise ConfigurationError(f"resume={str(resume)!r} goes on in that folder: leave out run_dir={self.run_dir}")
        if not self.strategy.leads:  # the run belongs to another machine
            pass
        elif resume is not None:
            folder = RunFolder(Path(resume), resuming=True)
        elif self.run_dir is not None:
            folder = RunFolder(self.run_dir, resuming=False)
        return self._run(agent, self.algorithm, silence, train_dataset, val_dataset, folder)

    def dev(
        self,
        agent: LitAgent[Any],
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
    ) -> TrainingResult:
        """Run the agent on the tasks without training, to see that everything fits together; keeps no run's folder.

        Args:
            agent: What to try.
            train_dataset: Tasks to run in mode `train`.
            val_dataset: Tasks to run in mode `val`.

        Raises:
            TypeError: The trainer's algorithm is not a `FastAlgorithm`.
        """
        algorithm = self.algorithm or Baseline()
        if not isinstance(algorithm, FastAlgorithm):
            raise TypeError(
                f"dev() runs a FastAlgorithm such as Baseline, not {type(algorithm).__name__}; "
                "use fit(), or a trainer without algorithm"
            )
        return self._run(agent, algorithm, None, train_dataset, val_dataset, None)

    def _run(
        self,
        agent: LitAgent[Any],
        algorithm: Algorithm | None,
        silence: float | None,
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
        folder: RunFolder | None,
    ) -> TrainingResult:
        started = time.monotonic()
        agent.set_trainer(self)
        self.store = self._configured_store  # not that of an earlier run's folder
        with folder.running() if folder else nullcontext() as record:
            if folder is not None:
                self._open_store(folder)
                folder.record.components = self._components()
                folder.write()
            work = AlgorithmWork(
                self,
                algorithm,
                self.adapter,
                self.llm_proxy,
                self.initial_resources,
                silence,
                train_dataset,
                val_dataset,
                run_dir=folder.path if folder else None,
                run_id=record.run_id if record else None,
                resuming=folder is not None and folder.resuming,
                on_metrics=self.on_metrics,
            )
            try:
                self.strategy.execute(work, RunnerWork(self.runner, agent, self.hooks), self.store)
            except BaseException:
                if record is not None:
                    record.metrics = work.context.metrics if work.context else read_metrics(folder and folder.path)
                raise
            finally:
                if isinstance(self.store, SqliteLightningStore):
                    run_to_result(self.store.write_back())
            result = summarize(self.store, work.context, folder.path if folder else None, time.monotonic() - started)
            if record is not None:
                record.metrics, record.rollouts = dict(result.metrics), dict(result.rollouts)
                record.score = result.score
            return result

    def _open_store(self, folder: RunFolder) -> None:
        """Let a run with a folder have its store there, unless one was given, and settle what a dead process left."""
        if not self._given_store:
            self.store = SqliteLightningStore(folder.path / STORE_FILE)
        if folder.resuming:
            # Nobody else has the store in the folder, for nobody else holds the folder.
            run_to_result(settle_leftovers(self.store, folder.record.run_id, alone=not self._given_store))

    def _components(self) -> dict[str, Any]:
        parts = ("algorithm", "runner", "tracer", "adapter", "strategy", "store", "llm_proxy")
        return {"n_runners": self.n_runners} | {part: describe(getattr(self, part)) for part in parts}

    def _build_runner(self, spec: ComponentSpec[Runner[Any]], tracer_given: bool) -> Runner[Any]:
        defaults: dict[str, Any] = {"tracer": lambda: self.tracer}
        if self.max_rollouts is not None:
            defaults["max_rollouts"] = self.max_rollouts
        ignored = ["tracer"] if tracer_given else []
        ignored += ["max_rollouts"] if self.max_rollouts is not None else []
        own = defaults if isinstance(spec, Runner) else cast("dict[str, Any]", spec) if isinstance(spec, dict) else {}
        for name in ignored:
            if name in own:
                logger.warning("The runner was given with its own %s; that of the trainer is ignored.", name)
        return _needed("runner", spec, Runner, lambda: instantiate_component(LitAgentRunner, None, defaults), defaults)


def _strategy(spec: ComponentSpec[ExecutionStrategy], n_runners: int | None, port: int | None) -> ExecutionStrategy:
    count = 1 if n_runners is None else n_runners
    defaults = {"n_runners": count} | ({} if port is None else {"server_port": port})
    strategy: ExecutionStrategy = _needed(
        "strategy", spec, ExecutionStrategy, lambda: SharedMemoryExecutionStrategy(count), defaults
    )
    if n_runners is not None and strategy.n_runners != n_runners:
        logger.warning("The strategy has %d runners; n_runners=%d is ignored.", strategy.n_runners, n_runners)
    if port is not None:
        if hasattr(strategy, "server_port"):
            setattr(strategy, "server_port", port)  # noqa: B010  # only strategies that serve the store have it
        else:
            logger.warning("The strategy serves nothing; port=%d is ignored.", port)
    return strategy


def _needed(
    kind: ComponentKind,
    spec: Any,
    expected_type: type[Any],
    default: Callable[[], Any],
    defaults: OptionalDefaults | None = None,
    *,
    dict_default_cls: type[Any] | None = None,
) -> Any:
    return build_component(
        spec,
        expected_type=expected_type,
        spec_name=kind,
        default_factory=default,
        optional_defaults=defaults,
        dict_requires_type=dict_default_cls is None,
        dict_default_cls=dict_default_cls,
        registry=Registry(kind),
    )


def _optional(
    kind: ComponentKind, spec: ComponentSpec[T], expected_type: type[T], defaults: OptionalDefaults | None = None
) -> T | None:
    return build_component(
        spec,
        expected_type=expected_type,
        spec_name=kind,
        allow_none=True,
        optional_defaults=defaults,
        registry=Registry(kind),
    )
