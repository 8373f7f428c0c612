"""Algorithms: what decides which tasks are run, and what is learned from them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentlightning.adapter import TraceAdapter
from agentlightning.algorithm.context import AlgorithmContext
from agentlightning.errors import ConfigurationError
from agentlightning.store import LightningStore
from agentlightning.types import Dataset, NamedResources

if TYPE_CHECKING:
    from agentlightning.llm_proxy import LLMProxy
    from agentlightning.trainer import Trainer

T = TypeVar("T")

_SET_BY_TRAINER: Final = frozenset({"_trainer", "_store", "_adapter", "_llm_proxy", "_context"})


class Algorithm:
    """Base of all algorithms: override `run`, and find what you need through the getters.

    `Trainer.fit` sets store, adapter, gateway and initial resources before it calls `run`. To use an algorithm
    without a trainer, call the setters yourself.
    """

    _trainer: Trainer | None = None
    _store: LightningStore | None = None
    _adapter: TraceAdapter[Any] | None = None
    _llm_proxy: LLMProxy | None = None
    _initial_resources: NamedResources | None = None
    _context: AlgorithmContext | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a trainer has set: in the process that unpickles the algorithm, it is set again."""
        return {key: value for key, value in vars(self).items() if key not in _SET_BY_TRAINER}

    def run(
        self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None
    ) -> Awaitable[None] | None:
        """Do the work; may be a coroutine function.

        Args:
            train_dataset: Tasks to learn from.
            val_dataset: Tasks to measure with.
        """
        raise NotImplementedError(f"{type(self).__name__} must override run()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call `run`."""
        return self.run(*args, **kwargs)

    def is_async(self) -> bool:
        """Whether `run` is a coroutine function."""
        return inspect.iscoroutinefunction(self.run)

    def set_trainer(self, trainer: Trainer) -> None:
        """Set the trainer that runs this algorithm."""
        self._trainer = trainer

    def get_trainer(self) -> Trainer:
        """Return the trainer; raises `ConfigurationError` when there is none."""
        return _present(self._trainer, "trainer")

    def set_store(self, store: LightningStore) -> None:
        """Set the store; a context of another one is given up."""
        self._store = store
        self._context = None

    def get_store(self) -> LightningStore:
        """Return the store; raises `ConfigurationError` when there is none."""
        return _present(self._store, "store")

    def set_adapter(self, adapter: TraceAdapter[Any]) -> None:
        """Set the adapter that turns spans into training data."""
        self._adapter = adapter

    def get_adapter(self) -> TraceAdapter[Any]:
        """Return the adapter; raises `ConfigurationError` when there is none."""
        return _present(self._adapter, "adapter")

    def set_llm_proxy(self, llm_proxy: LLMProxy | None) -> None:
        """Set the gateway."""
        self._llm_proxy = llm_proxy

    def get_llm_proxy(self) -> LLMProxy | None:
        """Return the gateway, or None."""
        return self._llm_proxy

    def set_initial_resources(self, resources: NamedResources) -> None:
        """Set the resources to begin with."""
        self._initial_resources = resources

    def get_initial_resources(self) -> NamedResources | None:
        """Return the resources to begin with, or None."""
        return self._initial_resources

    def set_context(self, context: AlgorithmContext) -> None:
        """Set what the run gives this algorithm."""
        self._context = context

    def get_context(self) -> AlgorithmContext:
        """Return what the run gives; without a run, a context of the store that keeps nothing on disk."""
        if self._context is None:
            self._context = AlgorithmContext(self.get_store())
        return self._context


class FastAlgorithm(Algorithm):
    """Base of algorithms quick enough for `Trainer.dev`."""


def _present(value: T | None, name: str) -> T:
    if value is None:
        raise ConfigurationError(f"the algorithm has no {name}: run it through Trainer.fit, or call set_{name}() first")
    return value
