"""One attempt, from its claim to its final status."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from agentlightning._internal.threads import run_in_thread
from agentlightning.emitter import emit_exception
from agentlightning.errors import InvalidValue, LeaseLost, MissingResource
from agentlightning.litagent import GivenResources, LitAgent, is_async_callable, resolve_proxies
from agentlightning.runner.cancel import cancelled_by, uninterrupted
from agentlightning.runner.failure import describe_failure
from agentlightning.runner.leases import Lease
from agentlightning.runner.outcome import record_result
from agentlightning.store.retry import retrying
from agentlightning.tracer.active import ActiveTrace, active_trace
from agentlightning.types import Hook, NamedResources, ProxyLLM, Span

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.runner.agent import LitAgentRunner
    from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

GATEWAY_DEADLINE: Final = 10.0
"""Seconds for the gateway to put the attempt's model calls into the store."""
STATUS_DEADLINE: Final = 60.0
"""Seconds for the store to take the attempt's status, retries included."""
LOST: Final = "the attempt ended in the store: cancelled, out of time, silent for too long, or given to another worker"
"""Why the agent of a lost attempt was stopped."""


class AttemptRun:
    """Runs the agent on one attempt.

    Args:
        runner: Who runs it; gives agent, tracer and store.
        lease: The attempt; that it is lost cancels the agent.
        hooks: Callbacks.
        event: Cancels the agent once it is set.
    """

    def __init__(
        self,
        runner: LitAgentRunner[Any],
        lease: Lease,
        hooks: Sequence[Hook],
        event: ExecutionEvent | None,
    ) -> None:
        self._runner = runner
        self._agent: LitAgent[Any] = runner.get_agent()
        self._store: LightningStore = runner.get_store()
        self._rollout = lease.rollout
        self._lost = lease.lost
        self._hooks = hooks
        self._event = event
        self._trace: ActiveTrace | None = None
        self._resources: NamedResources = {}

    async def run(self, interruption: BaseException | None = None) -> None:
        """Run the attempt and write its status.

        Whatever goes wrong, interruptions included, ends the attempt as failed and is raised again once that is
        written; an attempt that is lost keeps the status that it has. Only when the store has committed the success is
        the attempt finished: what comes later is raised, and changes nothing.

        Args:
            interruption: What came before the agent could start; the agent is not run then.
        """
        failure = await _caught(self._run_agent(interruption))
        failure = await _caught(self._finish()) or failure
        if failure is None:
            # Not shielded: the store skips a write whose caller is cancelled before its turn.
            failure = await _caught(self._write_success())
        if failure is None:
            return
        if self._lost.is_set():  # its status is what the store has made it, or another worker's to write
            raise failure
        try:
            await uninterrupted(self._write_failure(failure), STATUS_DEADLINE)
        except Exception:
            # The caller must see why the agent failed; that the store did not hear of it is second.
            logger.exception("The failure of rollout %s was not written", self._rollout.rollout_id)
        raise failure

    async def _run_agent(self, interruption: BaseException | None) -> None:
        rollout, tracer = self._rollout, self._runner.tracer
        async with self._stoppable():
            await self._call_hooks("on_rollout_start")
        # With this runner's own store: runners of other stores may share the tracer, and be torn down before this one.
        async with tracer.trace_context(
            rollout.rollout_id,
            store=self._store,
            rollout_id=rollout.rollout_id,
            attempt_id=rollout.attempt.attempt_id,
        ):
            self._trace = trace = active_trace()
            assert trace is not None, "a tracer that overrides trace_context opens it through super()"
            trace.runner = self._runner
            try:
                async with self._stoppable():
                    await self._call_hooks("on_trace_start", tracer=tracer)
                    if interruption is not None:
                        raise interruption
                    self._resources = await self._fetch_resources()
                    result = await self._call_agent()
                record_result(result, trace)
            except BaseException as error:
                emit_exception(error)
                raise
            finally:
                await self._end_trace(trace)

    @asynccontextmanager
    async def _stoppable(self) -> AsyncGenerator[None]:
        async with cancelled_by(self._event), cancelled_by(self._lost, LOST):
            yield

    async def _fetch_resources(self) -> NamedResources:
        resources_id, store = self._rollout.resources_id, self._store
        if resources_id is None:
            latest = await retrying(store.get_latest_resources, what="read the latest resources")
            return latest.resources if latest else {}
        update = await retrying(lambda: store.get_resources_by_id(resources_id), what="read resources")
        if update is None:
            raise MissingResource(
                f"rollout {self._rollout.rollout_id} asks for the resources {resources_id!r}, which the store does "
                "not have: enqueue it with the id that add_resources returned, or with none for the latest"
            )
        return update.resources

    async def _call_agent(self) -> Any:
        method = self._agent.method_for(self._rollout.mode)
        resources = GivenResources(self._resources)
        if self._agent.strip_proxy:
            resources = resolve_proxies(resources, self._rollout)
        call = functools.partial(method, self._rollout.input, resources=resources, rollout=self._rollout)
        result = call() if is_async_callable(method) else await self._call_in_thread(call)
        return await result if inspect.isawaitable(result) else result

    async def _call_in_thread(self, call: Callable[[], Any]) -> Any:
        try:
            return await run_in_thread(call, "agent")
        except asyncio.CancelledError:
            logger.warning(
                "The agent of rollout %s is given up: it is not async, so its thread runs on and its result is dropped",
                self._rollout.rollout_id,
            )
            raise

    async def _finish(self) -> None:
        """Make the attempt's spans complete and show them to the hooks."""
        gateway = any(isinstance(resource, ProxyLLM) for resource in self._resources.values())
        if gateway:
            await self._flush_gateway()
        if self._hooks:
            await self._call_hooks("on_rollout_end", spans=await self._all_spans(gateway))

    async def _flush_gateway(self) -> None:
        from agentlightning.llm_proxy.flush import flush_captures

        rollout_id, attempt_id = self._rollout.rollout_id, self._rollout.attempt.attempt_id
        try:
            await flush_captures(self._resources, rollout_id, attempt_id, deadline=GATEWAY_DEADLINE)
        except Exception as error:  # noqa: BLE001  # the gateway keeps its captures; they arrive late
            logger.warning("The gateway did not flush rollout %s: %s: %s", rollout_id, type(error).__name__, error)

    async def _all_spans(self, gateway: bool) -> list[Span]:
        """Return the spans of the trace, and those that the gateway wrote if there is one."""
        captured = self._trace.spans() if self._trace else []
        if not gateway:
            return captured
        rollout_id, attempt_id = self._rollout.rollout_id, self._rollout.attempt.attempt_id
        try:
            return list(
                await retrying(lambda: self._store.query_spans(rollout_id, attempt_id), what="read an attempt's spans")
            )
        except Exception:
            # Hooks see less rather than nothing; whether the attempt succeeded is not theirs to decide.
            logger.exception("The spans of rollout %s could not be read for its hooks", rollout_id)
            return captured

    async def _call_hooks(self, name: str, **details: Any) -> None:
        for hook in self._hooks:
            try:
                await getattr(hook, name)(agent=self._agent, runner=self._runner, rollout=self._rollout, **details)
            except Exception:
                # Hooks observe: their errors are told and change nothing.
                logger.exception("%s of %s failed", name, type(hook).__name__)

    async def _end_trace(self, trace: ActiveTrace) -> None:
        try:
            if self._hooks:  # which look at the spans in the store's order
                await trace.flush()
        except Exception as error:  # noqa: BLE001  # raised again when the trace is closed
            logger.debug("Spans are not written yet: %s", error)
        finally:
            await self._call_hooks("on_trace_end", tracer=self._runner.tracer)

    async def _write_success(self) -> None:
        async with asyncio.timeout(STATUS_DEADLINE):
            await self._update(status="succeeded")

    async def _write_failure(self, failure: BaseException) -> None:
        known = self._rollout.attempt.metadata or {}
        try:
            error = describe_failure(failure, self._resources)
            await self._update(status="failed", metadata={**known, "error": error})
        except InvalidValue as refusal:
            logger.warning("The failure of rollout %s is written without words: %s", self._rollout.rollout_id, refusal)
            await self._update(status="failed", metadata={**known, "error": {"type": type(failure).__name__}})

    async def _update(self, **changes: Any) -> None:
        rollout_id, attempt_id = self._rollout.rollout_id, self._rollout.attempt.attempt_id
        try:
            await retrying(lambda: self._store.update_attempt(rollout_id, attempt_id, **changes), what="write a status")
        except LeaseLost as error:
            logger.warning("The attempt of rollout %s had ended already: %s", rollout_id, error)


async def _caught(work: Awaitable[None]) -> BaseException | None:
    """Await something and return what it raised."""
    try:
        await work
    except GeneratorExit:  # the coroutine is thrown away, nothing can be awaited any more
        raise
    except BaseException as error:  # noqa: BLE001  # the caller raises it once the status is written
        return error
    return None
