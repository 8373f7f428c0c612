"""Tracer: opens traces, and records spans into them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias, TypeVar

from opentelemetry import context as otel_context

from agentlightning.errors import ConfigurationError
from agentlightning.tracer.active import LAST_TRACE, TRACE_KEY, ActiveTrace, active_trace, follow_into_threads
from agentlightning.tracer.writer import MAX_OUTAGE, SpanWriter
from agentlightning.types import (
    Attributes,
    ParallelWorkerBase,
    Span,
    SpanCoreFields,
    SpanRecordingContext,
    TraceStatus,
)

if TYPE_CHECKING:
    from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

Redact: TypeAlias = Callable[[str, Any], Any]
"""Takes the key and the value of an input or output, such as `input.api_key`, and returns what to record instead."""

_TRACER_KEY: Final = otel_context.create_key("agentlightning-tracer")


class Tracer(ParallelWorkerBase):
    """Records what an agent does as spans.

    Subclasses say how a span is made; the trace, its order and its way to the store are the same for all. Any number
    of traces may be open in one tracer at a time, one for each task.

    Attributes:
        redact: Sees every input and output of an operation before it is recorded; None records them as they are.
        max_outage: Seconds for which a store that is away is asked again to take spans; a runner sets its own.
    """

    redact: Redact | None = None
    max_outage: float = MAX_OUTAGE
    _store: LightningStore | None = None
    _writer: SpanWriter | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the worker and its store: a copy, here or in another process, gets its own."""
        return {name: value for name, value in vars(self).items() if name not in ("worker_id", "_store", "_writer")}

    def init_worker(self, worker_id: int, store: LightningStore | None = None, *args: Any, **kwargs: Any) -> None:
        """Remember the worker and its store, where the spans of traces with ids go; None keeps spans local."""
        super().init_worker(worker_id)
        self._store = store

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Forget the worker and its store."""
        super().teardown_worker(worker_id)
        self.worker_id = self._store = self._writer = None

    @asynccontextmanager
    async def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Open a trace: spans of this task, and of tasks and threads started in it, are recorded into it.

        On exit the spans are flushed to the store, but for those that the trace holds back.

        Args:
            name: What the trace is called in logs.
            store: Where the spans go; by default the store that `init_worker` took.
            rollout_id: Whose spans they are; without ids they are only kept for `get_last_trace`.
            attempt_id: Given if and only if `rollout_id` is.

        Raises:
            ConfigurationError: Only one id is given, or ids without a store.
            StoreError: The spans could not be written; `get_last_trace` still has them.
        """
        writer = self._writer_for(store or self._store, rollout_id, attempt_id)
        trace = ActiveTrace(self, rollout_id, attempt_id, writer)
        try:
            with self._entered(trace) as handle:
                yield handle
        except GeneratorExit:  # thrown away together with its event loop: nothing can be awaited any more
            raise
        except BaseException:
            await self._flush_after_failure(trace, name)
            raise
        if not trace.holds_back:
            await trace.flush()

    def trace_run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function inside a local trace, whose spans `get_last_trace` returns."""
        with self._entered(ActiveTrace(self, None, None, None)):
            return func(*args, **kwargs)

    async def trace_run_async(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await a function inside a local trace, whose spans `get_last_trace` returns."""
        async with self.trace_context():
            return await func(*args, **kwargs)

    def get_last_trace(self) -> list[Span]:
        """Return the ended spans of the trace that the calling task opened last, by (sequence id, start)."""
        trace = LAST_TRACE.get()
        return trace.spans() if trace is not None and trace.tracer is self else []

    async def flush(self) -> None:
        """Return when the store has every ended span of the trace that the calling task opened last.

        Raises:
            StoreError: The store did not take one, or did not answer in time.
        """
        trace = LAST_TRACE.get()
        if trace is not None and trace.tracer is self:
            await trace.flush()

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Record a span that starts and ends at once.

        Args:
            name: Its name.
            attributes: Its attributes.
            timestamp: When, in Unix seconds; now by default.
            status: How it ended.

        Returns:
            What was recorded.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot create spans")

    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> AbstractContextManager[SpanRecordingContext]:
        """Record a span around a block; an exception of the block is recorded once and goes on.

        Args:
            name: Its name.
            attributes: Its first attributes.
            start_time: When it started, in Unix seconds; now by default.
            end_time: When it ended; the end of the block by default.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot open spans")

    def get_langchain_handler(self, tags: list[str] | None = None) -> Any:
        """Return LangChain's callback handler where one is needed: None, as LangChain is instrumented."""
        return None

    @contextmanager
    def lifespan(self, store: LightningStore | None = None) -> Generator[Tracer]:
        """Set the tracer up as worker 0 inside the block."""
        self.init()
        try:
            self.init_worker(0, store)
            try:
                yield self
            finally:
                self.teardown_worker(0)
        finally:
            self.teardown()

    @contextmanager
    def _entered(self, trace: ActiveTrace) -> Generator[Any]:
        follow_into_threads()
        LAST_TRACE.set(trace)
        context = otel_context.set_value(_TRACER_KEY, self, otel_context.set_value(TRACE_KEY, trace))
        token = otel_context.attach(context)
        try:
            with self._opened(trace) as handle:
                yield handle
        except GeneratorExit:  # thrown away from another context, which has nothing to detach
            raise
        except BaseException:
            otel_context.detach(token)
            raise
        otel_context.detach(token)

    @contextmanager
    def _opened(self, trace: ActiveTrace) -> Generator[Any]:
        """What a subclass does around the body of a trace; what it yields, `trace_context` yields."""
        yield trace

    def _writer_for(
        self, store: LightningStore | None, rollout_id: str | None, attempt_id: str | None
    ) -> SpanWriter | None:
        if rollout_id is None and attempt_id is None:
            return None
        if rollout_id is None or attempt_id is None:
            raise ConfigurationError("give both rollout_id and attempt_id, or neither for a local trace")
        if store is None:
            raise ConfigurationError("a trace with ids needs a store: pass one to init_worker")
        loop = asyncio.get_running_loop()
        writer = self._writer
        if writer is None or (writer.store, writer.loop, writer.patience) != (store, loop, self.max_outage):
            writer = self._writer = SpanWriter(store, loop, self.max_outage)
        return writer

    async def _flush_after_failure(self, trace: ActiveTrace, name: str | None) -> None:
        try:
            await trace.flush()
        except Exception:
            # The failure of the body is what the caller must see; this one is second.
            logger.exception("The spans of %s were not written", name or trace.rollout_id or "a trace")


def get_active_tracer() -> Tracer | None:
    """Return the tracer of the present task: of its open trace, or the one set by `set_active_tracer`."""
    tracer = otel_context.get_value(_TRACER_KEY)
    if isinstance(tracer, Tracer):
        return tracer
    trace = active_trace()
    return trace.tracer if trace else None


def set_active_tracer(tracer: Tracer) -> None:
    """Make the tracer the active one for this task and what it starts.

    Raises:
        ConfigurationError: Another one is active.
    """
    if get_active_tracer() is not None:
        raise ConfigurationError("a tracer is active already: call clear_active_tracer() first")
    otel_context.attach(otel_context.set_value(_TRACER_KEY, tracer))


def clear_active_tracer() -> None:
    """Make no tracer the active one for this task and what it starts."""
    otel_context.attach(otel_context.set_value(_TRACER_KEY, None))
