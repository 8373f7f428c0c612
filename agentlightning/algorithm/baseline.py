"""The algorithm that learns nothing: it runs every task and reports what came back."""

from __future__ import annotations

import logging
from typing import Any, Literal

from agentlightning.algorithm.base import FastAlgorithm
from agentlightning.emitter import find_final_reward
from agentlightning.errors import ConfigurationError
from agentlightning.store import LightningStore
from agentlightning.types import Dataset, Rollout, RolloutMode, Span

logger = logging.getLogger(__name__)


class Baseline(FastAlgorithm):
    """Runs all tasks, training ones first, and logs status, spans and reward of each.

    Args:
        n_epochs: How often to run all tasks.
        train_split: Accepted for v0.3, which never used it either.
        polling_interval: Accepted for v0.3; the store wakes the algorithm.
        max_queue_length: Accepted for v0.3; the queue may be as long as it likes.
        span_verbosity: What to log of each span: its attribute `keys`, also their values, or nothing.

    Raises:
        ConfigurationError: A number is out of range.
    """

    def __init__(
        self,
        *,
        n_epochs: int = 1,
        train_split: float = 0.5,
        polling_interval: float = 5.0,
        max_queue_length: int = 4,
        span_verbosity: Literal["keys", "key_values", "none"] = "keys",
    ) -> None:
        if not 0.0 < train_split < 1.0:
            raise ConfigurationError(f"train_split must lie between 0 and 1, not {train_split}")
        if n_epochs < 1:
            raise ConfigurationError(f"n_epochs must be at least 1, not {n_epochs}")
        self.n_epochs = n_epochs
        self.span_verbosity: Literal["keys", "key_values", "none"] = span_verbosity

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Run every task of both datasets `n_epochs` times.

        Args:
            train_dataset: Tasks to run in mode `train`.
            val_dataset: Tasks to run in mode `val`.
        """
        store, context = self.get_store(), self.get_context()
        resources_id = await self._publish(store)
        datasets: dict[RolloutMode, Dataset[Any] | None] = {"train": train_dataset, "val": val_dataset}
        for epoch in range(self.n_epochs):
            for mode, dataset in datasets.items():
                tasks = [] if dataset is None else [dataset[index] for index in range(len(dataset))]
                key = f"{mode}-{epoch}"
                async for outcome in context.rollouts(tasks, mode=mode, resources_id=resources_id, key=key):
                    self._report(outcome.rollout, list(outcome.spans))

    async def _publish(self, store: LightningStore) -> str | None:
        """Publish the initial resources; without any, rollouts take the newest of the store, which may be none."""
        initial = self.get_initial_resources()
        if initial is None and await store.get_latest_resources() is not None:
            return None
        return (await store.update_resources("default", initial or {})).resources_id

    def _report(self, rollout: Rollout, spans: list[Span]) -> None:
        logger.info(
            "Rollout %s %s with %d spans and reward %s",
            rollout.rollout_id,
            rollout.status,
            len(spans),
            find_final_reward(spans),
        )
        if self.span_verbosity == "none":
            return
        for span in spans:
            shown = span.attributes if self.span_verbosity == "key_values" else sorted(span.attributes)
            logger.info("  %d %s %s", span.sequence_id, span.name, shown)
