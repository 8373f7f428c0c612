"""LitAgentRunner: runs agents on rollouts, many at a time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, get_args

from agentlightning.errors import ConfigurationError, NotFound, RolloutCancelled
from agentlightning.litagent import LitAgent
from agentlightning.runner.attempt import AttemptRun
from agentlightning.runner.base import Runner
from agentlightning.runner.cancel import cancelled_by, told_by
from agentlightning.runner.children import Children
from agentlightning.runner.claims import Claims
from agentlightning.runner.heartbeat import Heartbeat, HeartbeatSettings
from agentlightning.runner.leases import Lease, Leases
from agentlightning.runner.progress import Progress
from agentlightning.runner.settings import AttemptSettings
from agentlightning.runner.slots import Slots
from agentlightning.runner.start import start_directly
from agentlightning.store.retry import persistently
from agentlightning.tracer import Tracer
from agentlightning.types import Hook, NamedResources, Rollout, RolloutMode

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

T_task = TypeVar("T_task")

Isolation: TypeAlias = Literal["thread", "process"]
"""Where the agent runs: in the runner's process, or each time in one of its own."""

_LIVE: Final = frozenset({"worker_id", "_agent", "_store", "_heartbeat", "_leases", "_beating_users", "_beating_stack"})


class LitAgentRunner(Runner[T_task]):
    """Runs an agent on the rollouts of a store, tracing each on its own.

    An attempt ends when its agent does, or is stopped: after its `timeout_seconds`, by the event, or when a heartbeat
    tells that it is over in the store. An async agent is cancelled then, once it lets the event loop go on; a thread
    cannot be, so a sync agent in one is left to itself; a process is killed with all that it started in its group.

    Args:
        tracer: Records what the agent does.
        max_rollouts: How many rollouts `iter` runs before it returns; None for no limit.
        poll_interval: Seconds of one wait for work. The store wakes the runner, so this delays nothing but the return
            of a claim that the runner never heard of.
        heartbeat_interval: Seconds between two heartbeats, fewer where the `unresponsive_seconds` of a rollout demand
            it; 0 or less for none. Without them an agent is not stopped when its attempt is over in the store.
        interval_jitter: The most by which a pause between heartbeats is longer or shorter, in seconds.
        heartbeat_launch_mode: `asyncio` beats on the event loop, `thread` in a thread of its own.
        heartbeat_include_gpu: Whether heartbeats tell about GPUs.
        max_concurrency: How many rollouts `iter` runs at the same time.
        isolation: `thread` calls async agents on the event loop and others in a thread each; `process` calls each in a
            process of its own, which may hang, crash or exit without harm to anything else, and which costs 0.3 s of
            processor time and the agent's imports. Agent and tracer are pickled for it, by `init`.
        stop_grace: Seconds that `iter` gives to running rollouts once its event is set.
        cancel_grace: Seconds that a cancelled async agent gets to end; one that goes on is given up.
        max_outage: Seconds for which a store that does not answer is asked again, with growing pauses: for work, for
            resources, with an attempt's spans and with its status. The tracer takes it over.
        worker_name: The store knows this runner under it and the worker's number, as in `Worker-0`. None takes
            `AGL_WORKER_NAME` from the environment, or else `Worker`. Runners that work on one store at the same time
            differ in name or number.

    Raises:
        ConfigurationError: A number makes no sense.
    """

    def __init__(
        self,
        tracer: Tracer,
        max_rollouts: int | None = None,
        poll_interval: float = 5.0,
        heartbeat_interval: float = 10.0,
        interval_jitter: float = 0.5,
        heartbeat_launch_mode: Literal["asyncio", "thread"] = "asyncio",
        heartbeat_include_gpu: bool = False,
        *,
        max_concurrency: int = 1,
        isolation: Isolation = "thread",
        stop_grace: float = 30.0,
        cancel_grace: float = 5.0,
        max_outage: float = 60.0,
        worker_name: str | None = None,
    ) -> None:
        if max_concurrency < 1 or poll_interval <= 0:
            raise ConfigurationError(
                f"max_concurrency={max_concurrency} and poll_interval={poll_interval} must be positive"
            )
        if min(stop_grace, cancel_grace, max_outage) < 0:
            raise ConfigurationError(f"{stop_grace=}, {cancel_grace=} and {max_outage=} must not be negative")
        _check_choice("heartbeat_launch_mode", heartbeat_launch_mode, ("asyncio", "thread"))
        _check_choice("isolation", isolation, get_args(Isolation))
        self._tracer = tracer
        self._max_rollouts = max_rollouts
        self._poll_interval = poll_interval
        self._max_concurrency = max_concurrency
        self._isolation: Isolation = isolation
        self._worker_name = worker_name or os.environ.get("AGL_WORKER_NAME") or "Worker"
        self._stop_grace = stop_grace
        self._settings = AttemptSettings(cancel_grace, max_outage)
        self._heartbeat_settings = HeartbeatSettings(
            heartbeat_interval, interval_jitter, heartbeat_launch_mode, heartbeat_include_gpu
        )
        self._agent: LitAgent[T_task] | None = None
        self._store: LightningStore | None = None
        self._leases = Leases()
        self._heartbeat: Heartbeat | None = None
        self._hooks: tuple[Hook, ...] = ()
        self._beating_users = 0
        self._beating_stack = AsyncExitStack()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `init` and all later calls made, but for the hooks: another process makes its own."""
        state = {name: value for name, value in vars(self).items() if name not in _LIVE}
        return {**state, "_settings": replace(self._settings, children=None)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.worker_id = self._agent = self._store = self._heartbeat = None
        self._leases = Leases()
        self._beating_users = 0
        self._beating_stack = AsyncExitStack()

    @property
    def tracer(self) -> Tracer:
        """The tracer."""
        return self._tracer

    def init(self, agent: LitAgent[T_task], *, hooks: Sequence[Hook] | None = None, **kwargs: Any) -> None:
        """Take the agent and the hooks; once for all workers.

        Raises:
            ConfigurationError: Agent or tracer cannot be sent to a process of their own; the message names what.
        """
        children = Children(agent, self._tracer) if self._isolation == "process" else None
        self._settings = replace(self._settings, children=children)
        self._agent = agent
        agent.set_runner(self)
        self._hooks = tuple(hooks or ())
        self._tracer.init()

    def init_worker(self, worker_id: int, store: LightningStore, **kwargs: Any) -> None:
        """Take the store; once a worker."""
        self.worker_id = worker_id
        self._store = store
        self._leases = Leases()
        self._heartbeat = Heartbeat(store, self.get_worker_id(), self._leases, self._heartbeat_settings)
        self._tracer.max_outage = self._settings.max_outage
        self._tracer.init_worker(worker_id, store)

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Undo `init_worker`."""
        self.worker_id = self._store = self._heartbeat = None
        self._tracer.teardown_worker(worker_id)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Undo `init`."""
        self._agent = None
        self._hooks = ()
        self._tracer.teardown()

    def get_agent(self) -> LitAgent[T_task]:
        """Return the agent.

        Raises:
            ConfigurationError: `init` was not called.
        """
        if self._agent is None:
            raise ConfigurationError("the runner has no agent: use `with runner.run_context(agent=…, store=…)`")
        return self._agent

    def get_store(self) -> LightningStore:
        """Return the store.

        Raises:
            ConfigurationError: `init_worker` was not called.
        """
        if self._store is None:
            raise ConfigurationError("the runner has no store: use `with runner.run_context(agent=…, store=…)`")
        return self._store

    def get_worker_id(self) -> str:
        """Return the name under which the store knows this runner."""
        return f"{self._worker_name}-{'Unknown' if self.worker_id is None else self.worker_id}"

    async def step(
        self,
        input: T_task,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: ExecutionEvent | None = None,
    ) -> Rollout:
        """Run one task directly, past the queue. Any number of steps may run at the same time.

        The attempt of a step that is cancelled has failed, unless its success was in the store already.

        Args:
            input: The task.
            resources: What to run it with; stored as a new entry. None takes the latest there are.
            mode: The split it belongs to. None stays None and takes the agent's validation path.
            event: Cancels the step once it is set.

        Returns:
            The finished rollout.

        Raises:
            ValueError: The mode is unknown.
            StoreError: The store did not answer for `max_outage` seconds.
            RolloutCancelled: The event was set before the agent ended, or the attempt was over in the store: its
                rollout was cancelled, say.
            Exception: Whatever the agent raised, after the attempt was marked as failed.
        """
        _check_mode(mode)
        store, patience = self.get_store(), self._settings.max_outage
        async with self._beating():
            lease, interruption = await start_directly(
                store,
                self._leases,
                input=input,
                resources=resources,
                mode=mode,
                worker_id=self.get_worker_id(),
                patience=patience,
                event=event,
            )
            async with told_by(event, lease.stop):
                await self._run(lease, interruption)
        rollout_id = lease.rollout.rollout_id
        completed = await persistently(
            lambda: store.get_rollout_by_id(rollout_id), what="read a finished rollout", patience=patience
        )
        if completed is None:
            raise NotFound(f"rollout {rollout_id} is finished and the store has forgotten it")
        return completed

    async def iter(self, *, event: ExecutionEvent | None = None) -> None:
        """Run the rollouts of the store's queue, up to `max_concurrency` at the same time.

        Failures of rollouts are logged and recorded; the next one follows.

        Args:
            event: Ends the waiting for work at once when it is set; running rollouts get `stop_grace` seconds to end.

        Raises:
            StoreError: The store did not answer for `max_outage` seconds; running rollouts finish first.
        """
        worker_id, patience = self.get_worker_id(), self._settings.max_outage
        claims = Claims(self.get_store(), worker_id, self._leases, self._poll_interval, patience)
        failure: Exception | None = None
        async with self._beating(), asyncio.TaskGroup() as group:
            slots = Slots(self._max_concurrency, group, self._run_one)
            try:
                with suppress(RolloutCancelled):  # no rollout was cancelled, just the wait for one
                    async with cancelled_by(event):
                        await self._fill(slots, claims, event)
            except Exception as error:  # noqa: BLE001  # raised below: a task group would cancel the running rollouts
                failure = error
            await slots.finish(event, self._stop_grace)
        if failure is not None:
            raise failure

    async def _fill(self, slots: Slots, claims: Claims, event: ExecutionEvent | None) -> None:
        """Give work to the slots until the event is set or `max_rollouts` were started."""
        progress = Progress(self._log_prefix(), self._max_rollouts)
        while not (progress.complete or (event is not None and event.is_set())):
            for lease in await claims.take(progress.limit(await slots.free())):
                progress.count()
                slots.fill(lease)

    async def _run_one(self, lease: Lease) -> None:
        try:
            await self._run(lease)
        except RolloutCancelled as stop:
            logger.warning("%s It was stopped: %s", self._log_prefix(lease.rollout), stop)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise  # meant for the runner
        except BaseException:
            # The attempt is recorded as failed; the queue goes on. An agent that calls sys.exit() ends only itself.
            logger.exception("%s It failed", self._log_prefix(lease.rollout))

    async def _run(self, lease: Lease, interruption: BaseException | None = None) -> None:
        attempt = AttemptRun(self, lease, self._hooks, self._settings)
        try:
            await attempt.run(interruption)
        finally:
            self._leases.drop(lease)
            if logger.isEnabledFor(logging.INFO):
                seconds = asyncio.get_running_loop().time() - lease.since
                logger.info("%s It took %.2f s: %s", self._log_prefix(lease.rollout), seconds, await attempt.summary())

    def _log_prefix(self, rollout: Rollout | None = None) -> str:
        worker = [] if self.worker_id is None else [self.get_worker_id()]
        return f"[{' | '.join(worker + ([f'Rollout {rollout.rollout_id}'] if rollout else [])) or 'Default Worker'}]"

    @asynccontextmanager
    async def _beating(self) -> AsyncGenerator[None]:
        """Beat while anybody works: one heartbeat for all concurrent steps."""
        assert self._heartbeat is not None, "get_store() has refused to go on without init_worker()"
        self._beating_users += 1
        try:
            if self._beating_users == 1:
                self._beating_stack = AsyncExitStack()
                await self._beating_stack.enter_async_context(self._heartbeat.beating())
            yield
        finally:
            self._beating_users -= 1
            if self._beating_users == 0:
                await self._beating_stack.aclose()


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name} must be {' or '.join(choices)}, not {value!r}")


def _check_mode(mode: RolloutMode | None) -> None:
    if mode is not None and mode not in get_args(RolloutMode):
        hint = " (did you mean val?)" if str(mode).startswith("val") else ""
        raise ValueError(f"mode must be train, val, test or None, not {mode!r}{hint}")
