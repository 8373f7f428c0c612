"""Algorithms from plain functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from agentlightning.algorithm.base import Algorithm
from agentlightning.types import Dataset


class FunctionalAlgorithm(Algorithm):
    """An algorithm that is a function; it gets, by parameter name, what it asks for.

    The names are `store`, `adapter`, `llm_proxy`, `initial_resources`, `train_dataset`, `val_dataset` and `context`, an
    `AlgorithmContext`.
    """

    def __init__(self, function: Callable[..., Awaitable[None] | None]) -> None:
        self._function = function
        self._parameters = frozenset(inspect.signature(function).parameters)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself."""
        return self._function(*args, **kwargs)

    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self._function)

    def run(
        self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None
    ) -> Awaitable[None] | None:
        """Call the function with what it asks for.

        Raises:
            TypeError: A dataset was given that the function has no parameter for.
        """
        datasets = {"train_dataset": train_dataset, "val_dataset": val_dataset}
        for name, dataset in datasets.items():
            if dataset is not None and name not in self._parameters:
                raise TypeError(f"{self._function.__qualname__} takes no {name}: add the parameter, or do not pass one")
        sources: dict[str, Callable[[], Any]] = {
            "store": self.get_store,
            "adapter": self.get_adapter,
            "llm_proxy": self.get_llm_proxy,
            "initial_resources": self.get_initial_resources,
            "context": self.get_context,
            "train_dataset": lambda: train_dataset,
            "val_dataset": lambda: val_dataset,
        }
        return self._function(**{name: get() for name, get in sources.items() if name in self._parameters})


def algo(function: Callable[..., Awaitable[None] | None]) -> FunctionalAlgorithm:
    """Make an algorithm of a function, sync or async; see `FunctionalAlgorithm`."""
    return FunctionalAlgorithm(function)
