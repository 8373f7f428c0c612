"""One attempt, from its claim to its final status."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from agentlightning._internal.threads import run_in_thread
from agentlightning.emitter import emit_exception, get_reward_value
from agentlightning.errors import InvalidValue, LeaseLost, MissingResource, RolloutCancelled, TooLarge
from agentlightning.litagent import GivenResources, LitAgent, is_async_callable, resolve_proxies
from agentlightning.runner.cancel import uninterrupted
from agentlightning.runner.giving_up import ended_or_given_up
from agentlightning.runner.hooks import Hooks
from agentlightning.runner.leases import Lease
from agentlightning.runner.outcome import record_result
from agentlightning.runner.settings import AttemptSettings
from agentlightning.runner.stop import LOST, out_of_time
from agentlightning.runner.verdict import Verdict
from agentlightning.store.retry import CALL_TIMEOUT, persistently
from agentlightning.tracer.active import ActiveTrace, SpanRecord, active_trace
from agentlightning.types import Hook, NamedResources, ProxyLLM, Span

if TYPE_CHECKING:
    from agentlightning.runner.agent import LitAgentRunner
    from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

GATEWAY_DEADLINE: Final = 10.0
"""Seconds for the gateway to put the attempt's model calls into the store."""
SPANS_AT_ONCE: Final = 20
"""The most spans to read while the event loop waits."""


class AttemptRun:
    """Runs the agent on one attempt.

    Args:
        runner: Who runs it; gives agent, tracer and store.
        lease: The attempt; its stop ends the agent early.
        hooks: Callbacks.
        settings: How an agent is run, and for how long what is waited for.
    """

    def __init__(
        self, runner: LitAgentRunner[Any], lease: Lease, hooks: Sequence[Hook], settings: AttemptSettings
    ) -> None:
        self._runner = runner
        self._agent: LitAgent[Any] = runner.get_agent()
        self._store: LightningStore = runner.get_store()
        self._lease = lease
        self._rollout = lease.rollout
        self._stop = lease.stop
        self._hooks = Hooks(hooks, self._agent, runner, lease.rollout, settings.cancel_grace)
        self._settings = settings
        self._verdict = Verdict(self._store, lease.rollout, settings.max_outage)
        self._trace: ActiveTrace | None = None
        self._resources: NamedResources = {}

    async def run(self, interruption: BaseException | None = None) -> None:
        """Run the attempt and write its status.

        Whatever goes wrong, interruptions included, ends the attempt as failed and is raised again once that is
        written; one that is out of time ends as `timeout`, and one that is lost keeps the status that it has. Only when
        the store has committed the success is the attempt finished: what comes later is raised, and changes nothing.

        Args:
            interruption: What came before the agent could start; the agent is not run then.
        """
        with self._deadline():
            failure = await _caught(self._run_agent(interruption))
        holds_back = self._trace is not None and self._trace.holds_back
        failure = await _caught(self._finish()) or failure
        ended_well = failure is None
        if ended_well:
            failure = await _caught(self._succeed())
        if failure is None:
            return
        if holds_back:
            await self._write_the_rest()
        if ended_well and isinstance(failure, LeaseLost):
            raise RolloutCancelled(LOST.text) from failure
        reason = self._stop.reason
        status = "failed" if reason is None else reason.status
        if status is not None:
            await self._verdict.failed(failure, status, self._resources)
        raise failure

    async def _succeed(self) -> None:
        """Write the success, in one with what the store does not have of the trace."""
        trace = self._trace
        assert trace is not None, "an agent that ended well had one"
        try:
            async with trace.last_spans() as spans:
                await self._verdict.succeeded(spans)
        except (InvalidValue, TooLarge) as refusal:
            logger.debug("The last spans are written one by one: %s", refusal)
            await trace.flush()  # raises what is wrong with one of them
            await self._verdict.succeeded()

    async def _write_the_rest(self) -> None:
        """Let the store have the spans that were to be written with the success, before it hears of the failure."""
        if self._trace is None:
            return
        error = await _caught(uninterrupted(self._trace.flush(), self._settings.max_outage + CALL_TIMEOUT))
        if isinstance(error, Exception):
            logger.error("Spans of rollout %s are not written: %s", self._rollout.rollout_id, error)

    async def summary(self) -> str:
        """Tell how many spans ended, and the last reward among them."""
        if self._trace is None:
            return "no spans"
        reward, records = None, self._trace.latest_first()
        for number, record in enumerate(records, 1):
            reward = _reward_of(record)
            if reward is not None:
                break
            if number % SPANS_AT_ONCE == 0:
                await asyncio.sleep(0)  # it is the agents' turn
        return f"{len(records)} spans, final reward {reward}"

    @contextmanager
    def _deadline(self) -> Generator[None]:
        """Stop the agent when its time is over, whatever the store does: it may be away, or heartbeats be off."""
        seconds = self._rollout.config.timeout_seconds
        if seconds is None:
            yield
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_at(self._lease.since + seconds, self._stop.tell, out_of_time(seconds))
        try:
            yield
        finally:
            timer.cancel()

    async def _run_agent(self, interruption: BaseException | None) -> None:
        rollout, tracer = self._rollout, self._runner.tracer
        with self._stop.cancels():
            await self._hooks.call("on_rollout_start")
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
                with self._stop.cancels():
                    await self._hooks.call("on_trace_start", tracer=tracer)
                    if interruption is not None:
                        raise interruption
                    self._resources = await self._fetch_resources()
                    result = await self._call_agent(trace)
                record_result(result, trace)
            except BaseException as error:
                emit_exception(error)
                raise
            finally:
                await self._end_trace(trace)

    async def _fetch_resources(self) -> NamedResources:
        resources_id, store, patience = self._rollout.resources_id, self._store, self._settings.max_outage
        if resources_id is None:
            latest = await persistently(store.get_latest_resources, what="read the latest resources", patience=patience)
            return latest.resources if latest else {}
        update = await persistently(
            lambda: store.get_resources_by_id(resources_id), what="read resources", patience=patience
        )
        if update is None:
            raise MissingResource(
                f"rollout {self._rollout.rollout_id} asks for the resources {resources_id!r}, which the store does "
                "not have: enqueue it with the id that add_resources returned, or with none for the latest"
            )
        return update.resources

    async def _call_agent(self, trace: ActiveTrace) -> Any:
        resources = GivenResources(self._resources)
        if self._agent.strip_proxy:
            resources = resolve_proxies(resources, self._rollout)
        if self._settings.children is not None:
            await self._settings.children.run(self._rollout, resources, trace)
            self._hold_back(trace)
            return None
        method = self._agent.method_for(self._rollout.mode)
        call = functools.partial(method, self._rollout.input, resources=resources, rollout=self._rollout)
        return await ended_or_given_up(
            self._call(call, is_async_callable(method), trace),
            self._settings.cancel_grace,
            f"the agent of rollout {self._rollout.rollout_id}",
        )

    async def _call(self, call: Callable[[], Any], is_async: bool, trace: ActiveTrace) -> Any:
        result = call() if is_async else await self._call_in_thread(call)
        if inspect.isawaitable(result):
            result = await result
        self._hold_back(trace)  # now, before the event loop goes on to ask for places
        return result

    def _hold_back(self, trace: ActiveTrace) -> None:
        """Keep the last spans, to be written with the success; hooks see all spans before that."""
        if not self._hooks:
            trace.hold_back()

    async def _call_in_thread(self, call: Callable[[], Any]) -> Any:
        try:
            return await run_in_thread(call, "agent")
        except asyncio.CancelledError:
            logger.warning(
                "The agent of rollout %s is given up: it is not async, so its thread runs on and its result is "
                "dropped; LitAgentRunner(isolation='process') can end such agents",
                self._rollout.rollout_id,
            )
            raise

    async def _finish(self) -> None:
        """Make the attempt's spans complete and show them to the hooks."""
        gateway = any(isinstance(resource, ProxyLLM) for resource in self._resources.values())
        if gateway:
            await self._flush_gateway()
        if self._hooks:
            await self._hooks.call("on_rollout_end", spans=await self._all_spans(gateway))

    async def _flush_gateway(self) -> None:
        from agentlightning.llm_proxy.flush import flush_captures

        rollout_id, attempt_id = self._rollout.rollout_id, self._rollout.attempt.attempt_id
        try:
            missing = await flush_captures(self._resources, rollout_id, attempt_id, deadline=GATEWAY_DEADLINE)
        except Exception as error:  # noqa: BLE001  # the gateway keeps its captures; they arrive late
            logger.warning("The gateway did not flush rollout %s: %s: %s", rollout_id, type(error).__name__, error)
            missing = [f"{type(error).__name__}: {error}"]
        self._verdict.missing_calls = missing

    async def _all_spans(self, gateway: bool) -> list[Span]:
        """Return the spans of the trace, and those that the gateway wrote if there is one."""
        captured = self._trace.spans() if self._trace else []
        if not gateway:
            return captured
        rollout_id, attempt_id = self._rollout.rollout_id, self._rollout.attempt.attempt_id
        try:
            spans = await persistently(
                lambda: self._store.query_spans(rollout_id, attempt_id),
                what="read an attempt's spans",
                patience=self._settings.max_outage,
            )
            return list(spans)
        except Exception:
            # Hooks see less rather than nothing; whether the attempt succeeded is not theirs to decide.
            logger.exception("The spans of rollout %s could not be read for its hooks", rollout_id)
            return captured

    async def _end_trace(self, trace: ActiveTrace) -> None:
        try:
            if self._hooks:  # which look at the spans in the store's order
                await trace.flush()
        except Exception as error:  # noqa: BLE001  # raised again when the trace is closed
            logger.debug("Spans are not written yet: %s", error)
        finally:
            await self._hooks.call("on_trace_end", tracer=self._runner.tracer)


def _reward_of(record: SpanRecord) -> float | None:
    try:
        return get_reward_value(record.span(record.sequence_id or 0))
    except InvalidValue:  # it cannot be built
        return None


async def _caught(work: Awaitable[None]) -> BaseException | None:
    """Await something and return what it raised."""
    try:
        await work
    except GeneratorExit:  # the coroutine is thrown away, nothing can be awaited any more
        raise
    except BaseException as error:  # noqa: BLE001  # the caller raises it once the status is written
        return error
    return None
