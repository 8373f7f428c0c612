"""What a trainer hands to its strategy: the algorithm with all it needs, in whatever process."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning._internal.aio import wait_for_flag
from agentlightning._internal.threads import run_in_thread
from agentlightning.adapter import TraceAdapter
from agentlightning.algorithm import Algorithm, AlgorithmContext
from agentlightning.algorithm.metrics_log import MetricsListener
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import LightningStore
from agentlightning.tracer.active import outside_traces
from agentlightning.trainer.gateway import serving
from agentlightning.trainer.silence import SilenceLimit
from agentlightning.types import Dataset, NamedResources

if TYPE_CHECKING:
    from agentlightning.execution import ExecutionEvent
    from agentlightning.trainer.trainer import Trainer


@dataclass
class AlgorithmWork:
    """Runs an algorithm.

    Attributes:
        trainer: Whose it is; it stays in its process.
        algorithm: None lets the runners serve whoever fills the store.
        adapter: For the algorithm.
        llm_proxy: Served as long as runners live.
        initial_resources: For the algorithm.
        silence: `unresponsive_seconds` of the rollouts that the algorithm enqueues without saying so itself.
        train_dataset: Tasks to learn from.
        val_dataset: Tasks to measure with.
        run_dir: The run's folder, or None.
        run_id: Names the run in what it leaves in the store, or None.
        resuming: Whether the run in the folder goes on.
        on_metrics: Called with each record of the algorithm's metrics.
        context: What the algorithm was given, once it began in this process.
    """

    trainer: Trainer | None
    algorithm: Algorithm | None
    adapter: TraceAdapter[Any]
    llm_proxy: LLMProxy | None
    initial_resources: NamedResources | None
    silence: float | None
    train_dataset: Dataset[Any] | None
    val_dataset: Dataset[Any] | None
    run_dir: Path | None = None
    run_id: str | None = None
    resuming: bool = False
    on_metrics: tuple[MetricsListener, ...] = ()
    context: AlgorithmContext | None = None

    def serving(self, store: LightningStore) -> AbstractContextManager[None]:
        """Serve the gateway inside the block."""
        return serving(self.llm_proxy, store)

    async def __call__(self, store: LightningStore, event: ExecutionEvent) -> None:
        """Run the algorithm to its end."""
        if self.algorithm is None:
            await wait_for_flag(event)
            return
        limited = store if self.silence is None else SilenceLimit(store, self.silence)
        self.context = AlgorithmContext(
            limited,
            run_dir=self.run_dir,
            run_id=self.run_id,
            resuming=self.resuming,
            event=event,
            on_metrics=self.on_metrics,
        )
        self._equip(self.algorithm, self.context)
        work = partial(self.algorithm.run, train_dataset=self.train_dataset, val_dataset=self.val_dataset)
        with outside_traces():  # its model calls belong to no rollout that runs beside it
            # A synchronous algorithm in a thread of its own can use the store, and Ctrl+C need not wait for it.
            try:
                result = work() if self.algorithm.is_async() else await run_in_thread(work, "algorithm")
                if isinstance(result, Awaitable):
                    await result
            finally:
                await self.context.close()

    def _equip(self, algorithm: Algorithm, context: AlgorithmContext) -> None:
        if self.trainer is not None:
            algorithm.set_trainer(self.trainer)
        algorithm.set_store(context.store)
        algorithm.set_context(context)
        algorithm.set_adapter(self.adapter)
        if self.initial_resources is not None:
            algorithm.set_initial_resources(self.initial_resources)
        algorithm.set_llm_proxy(self.llm_proxy)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "trainer": None, "context": None}
