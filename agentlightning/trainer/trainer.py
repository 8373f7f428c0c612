"""The trainer: one call that runs an algorithm and its runners on a store, wherever they live."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from agentlightning.adapter import TraceAdapter, TracerTraceToTriplet
from agentlightning.algorithm import Algorithm, Baseline, FastAlgorithm
from agentlightning.errors import ConfigurationError
from agentlightning.execution import ExecutionStrategy, SharedMemoryExecutionStrategy
from agentlightning.litagent import LitAgent
from agentlightning.llm_proxy import LLMProxy
from agentlightning.runner import LitAgentRunner, Runner
from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.tracer import OtelTracer, Tracer
from agentlightning.trainer import silence as silence_limit
from agentlightning.trainer.bundles import AlgorithmWork, RunnerWork
from agentlightning.trainer.components import ComponentSpec, build_component
from agentlightning.types import Dataset, Hook, NamedResources

logger = logging.getLogger(__name__)

_STRATEGIES = {
    "cs": "agentlightning.execution.ClientServerExecutionStrategy",
    "shm": "agentlightning.execution.SharedMemoryExecutionStrategy",
}
_STORES = {
    "memory": "agentlightning.store.InMemoryLightningStore",
    "sqlite": "agentlightning.store.SqliteLightningStore",
}
_ALGORITHMS = {
    "baseline": "agentlightning.algorithm.Baseline",
    "grpo": "agentlightning.algorithm.grpo.GRPO",
}


class Trainer:
    """Runs an algorithm and its runners on a store.

    Every component may be given as an instance, a class, a factory, a registered name or dotted path, or a dict with
    `type` and the constructor's arguments.

    Args:
        n_runners: How many runners; an initialised `strategy` that says otherwise wins, with a warning.
        max_rollouts: The most rollouts of each runner; None for no limit.
        initial_resources: Handed to the algorithm.
        tracer: Records what agents do; `OtelTracer` by default.
        adapter: Turns spans into training data; `TracerTraceToTriplet` by default.
        store: Where everything lives; in memory by default, `SqliteLightningStore(path)` to keep it.
        runner: Runs the agent; `LitAgentRunner` by default. Each worker gets a copy of its own.
        strategy: Where algorithm and runners live; `shm`, everything in this process, by default.
        algorithm: What learns; None lets the runners serve whoever fills the store.
        llm_proxy: The gateway, which is up for as long as a run lasts; None lets an algorithm that needs one make its
            own.
        hooks: Called around every rollout.

    Raises:
        ConfigurationError: A component cannot be made.
    """

    def __init__(
        self,
        *,
        n_runners: int | None = None,
        max_rollouts: int | None = None,
        initial_resources: NamedResources | None = None,
        tracer: ComponentSpec[Tracer] = None,
        adapter: ComponentSpec[TraceAdapter[Any]] = None,
        store: ComponentSpec[LightningStore] = None,
        runner: ComponentSpec[Runner[Any]] = None,
        strategy: ComponentSpec[ExecutionStrategy] = None,
        algorithm: ComponentSpec[Algorithm] = None,
        llm_proxy: ComponentSpec[LLMProxy] = None,
        hooks: Hook | Sequence[Hook] | None = None,
    ) -> None:
        self.initial_resources = initial_resources
        self.max_rollouts = max_rollouts
        self.tracer = _built(build_component(tracer, expected_type=Tracer, name="tracer", default=OtelTracer))
        self.adapter: TraceAdapter[Any] = _built(
            build_component(adapter, expected_type=TraceAdapter, name="adapter", default=TracerTraceToTriplet)
        )
        self.algorithm = build_component(algorithm, expected_type=Algorithm, name="algorithm", registry=_ALGORITHMS)
        self.strategy = self._build_strategy(strategy, n_runners)
        self.n_runners = self.strategy.n_runners
        self.store = _built(
            build_component(
                store,
                expected_type=LightningStore,
                name="store",
                default=InMemoryLightningStore,
                registry=_STORES,
            )
        )
        self.runner: Runner[Any] = _built(
            build_component(
                runner,
                expected_type=Runner,
                name="runner",
                default=lambda: LitAgentRunner[Any](self.tracer, max_rollouts=max_rollouts),
                optional_arguments={"tracer": self.tracer, "max_rollouts": max_rollouts},
            )
        )
        self.llm_proxy = build_component(
            llm_proxy, expected_type=LLMProxy, name="llm_proxy", optional_arguments={"store": self.store}
        )
        self.hooks = (hooks,) if isinstance(hooks, Hook) else tuple(hooks or ())

    def fit(
        self,
        agent: LitAgent[Any],
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
    ) -> None:
        """Train: run the algorithm on the datasets while the runners run the agent; returns when it has ended.

        Works from a script and where an event loop runs already (a notebook).

        Args:
            agent: What to train.
            train_dataset: Tasks to learn from.
            val_dataset: Tasks to measure with.

        Raises:
            KeyboardInterrupt: Ctrl+C, after everything was stopped; what was finished is in the store.
            Exception: Whatever the algorithm or a runner raised.
        """
        silence = silence_limit.SECONDS if self.strategy.supervises and not silence_limit.being_debugged() else None
        self._run(agent, self.algorithm, silence, train_dataset, val_dataset)

    def dev(
        self,
        agent: LitAgent[Any],
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
    ) -> None:
        """Run the agent on the tasks without training, to see that everything fits together.

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
        self._run(agent, algorithm, None, train_dataset, val_dataset)

    def _run(
        self,
        agent: LitAgent[Any],
        algorithm: Algorithm | None,
        silence: float | None,
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
    ) -> None:
        agent.set_trainer(self)
        work = AlgorithmWork(
            self,
            algorithm,
            self.adapter,
            self.llm_proxy,
            self.initial_resources,
            silence,
            train_dataset,
            val_dataset,
        )
        self.strategy.execute(work, RunnerWork(self.runner, agent, self.hooks), self.store)

    def _build_strategy(self, spec: ComponentSpec[ExecutionStrategy], n_runners: int | None) -> ExecutionStrategy:
        strategy = _built(
            build_component(
                spec,
                expected_type=ExecutionStrategy,
                name="strategy",
                default=lambda: SharedMemoryExecutionStrategy(n_runners or 1),
                optional_arguments={"n_runners": n_runners or 1},
                registry=_STRATEGIES,
            )
        )
        if n_runners is not None and strategy.n_runners != n_runners:
            logger.warning("The strategy has %d runners; n_runners=%d is ignored.", strategy.n_runners, n_runners)
        return strategy


def _built(component: Any) -> Any:
    if component is None:
        raise ConfigurationError("this component is needed")
    return component
