"""The algorithm and the runners in processes of their own, on one machine or several, with a store that is served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal, TypeAlias, cast, get_args

from agentlightning._internal.aio import wait_for_flag
from agentlightning._internal.defaults import PORT
from agentlightning.env_var import LightningEnvVar, resolve_bool_env_var, resolve_int_env_var, resolve_str_env_var
from agentlightning.errors import AddressTaken, ConfigurationError, ExecutionError
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle, serving
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.lifecycle import Lifecycle
from agentlightning.execution.loop_thread import Cancellable, CoroutineFactory, run_blocking
from agentlightning.execution.member import Member
from agentlightning.execution.membership import Membership
from agentlightning.execution.parts import AlgorithmPart, Order, RunnerPart
from agentlightning.execution.run_store import RunClient, RunServer, RunStore
from agentlightning.execution.supervisor import Supervision, Supervisor
from agentlightning.processes.child import KILL_DEADLINE
from agentlightning.processes.pickling import pickled
from agentlightning.processes.words import words_for
from agentlightning.serving import url_of
from agentlightning.store import LightningStore, LightningStoreClient
from agentlightning.store.tokens import runner_token, token_given

logger = logging.getLogger(__name__)

Role: TypeAlias = Literal["algorithm", "runner", "both"]
Side: TypeAlias = Literal["algorithm", "runner"]

_HOST: Final = "127.0.0.1"
_WORK: Final = "the run"


class ClientServerExecutionStrategy(ExecutionStrategy):
    """Runs the algorithm and `n_runners` runners in processes of their own, which share a store over HTTP.

    The calling process serves the store, and watches the others: a runner that dies is started again, and what it held
    is released at once. No process outlives the calling one. The same program started on another machine with
    `AGL_CURRENT_ROLE=runner` and `AGL_SERVER_HOST` joins the run, and ends with it.

    Args:
        role: What this process does: "algorithm", "runner", or "both", which starts the other processes;
            `AGL_CURRENT_ROLE` by default, and else "both".
        server_host: The address that the store's server binds, and to which runners of the role "runner" connect;
            `AGL_SERVER_HOST` by default, and else 127.0.0.1. Any that other machines can reach needs a token.
        server_port: Its port; `AGL_SERVER_PORT` by default, and else 4747, or a free one where that is taken and
            nobody else is to connect.
        n_runners: How many runners this process starts; 0 leaves them to others.
        graceful_timeout: Seconds that runners get for the rollouts in hand when the algorithm has ended.
        terminate_timeout: Seconds that a process gets to clean up once it was cancelled, before it is killed.
        main_process: Who gets the calling process: the algorithm, or (for debugging an agent) the only runner.
        managed_store: Whether to serve the store; `AGL_MANAGED_STORE` by default, and else True. False hands the store
            itself to all processes: a `LightningStoreClient`, say.
        allowed_exit_codes: Exits of runners after which they are not started again; negative numbers are signals.
        advertise_host: The name under which other machines find the server, if it is not the address that it binds.
        token: What callers of the server must present; `AGL_TOKEN` by default. Runners get one with fewer rights.
        max_restarts: How often in a row a runner that died is started again.
        min_runners: The run ends with an error when fewer are left.

    Raises:
        ConfigurationError: The arguments or the environment contradict each other.
    """

    def __init__(
        self,
        role: Role | None = None,
        server_host: str | None = None,
        server_port: int | None = None,
        n_runners: int = 1,
        graceful_timeout: float = 10.0,
        terminate_timeout: float = 10.0,
        main_process: Side = "algorithm",
        managed_store: bool | None = None,
        allowed_exit_codes: Iterable[int] = (0, -15),
        *,
        advertise_host: str | None = None,
        token: str | None = None,
        max_restarts: int = 5,
        min_runners: int = 1,
    ) -> None:
        self.role = _role(resolve_str_env_var(LightningEnvVar.AGL_CURRENT_ROLE, role, "both"))
        self.n_runners = n_runners
        self.main_process: Side = main_process
        _check_placement(self.role, main_process, n_runners)
        self.server_host = resolve_str_env_var(LightningEnvVar.AGL_SERVER_HOST, server_host, _HOST) or _HOST
        given_port = resolve_int_env_var(LightningEnvVar.AGL_SERVER_PORT, server_port)
        self.server_port = PORT if given_port is None else given_port
        self._port_is_usual = given_port is None and self.role == "both"
        self.managed_store = resolve_bool_env_var(LightningEnvVar.AGL_MANAGED_STORE, managed_store, True) is not False
        self.graceful_timeout = graceful_timeout
        self.advertise_host = advertise_host
        self._token = token_given(token)
        self._cancel_seconds = terminate_timeout
        if min_runners > max(n_runners, 1):
            raise ConfigurationError(f"min_runners={min_runners} cannot be: there are {n_runners}")
        self._supervision = Supervision(
            max_restarts, min(min_runners, n_runners), frozenset(allowed_exit_codes), terminate_timeout
        )

    @property
    def leads(self) -> bool:
        """Whether the algorithm belongs to this process or one that it starts."""
        return self.role != "runner"

    @property
    def supervises(self) -> bool:
        """Whether this process watches runners; one that it holds itself may be at a breakpoint."""
        return self.main_process == "algorithm" and self.leads

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run what is this process's part, and what it starts, to the end; see `ExecutionStrategy.execute`.

        Raises:
            ConfigurationError: Something cannot be sent to a process of its own; the message names it.
            AddressTaken: The store cannot be served where it should be.
            ExecutionError: Too few runners are left, or the algorithm's process died.
            SystemExit: SIGTERM came, and all was stopped; with code 143.
        """
        if self.role == "runner":
            self._take_part(runner, store)
        elif self.main_process == "runner":
            self._lead_from_the_runner(algorithm, runner, store)
        else:
            self._lead(algorithm, runner, store)

    def _lead(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run the algorithm here, and the runners in processes of their own."""
        numbers = range(0 if self.role == "algorithm" else self.n_runners)
        work = pickled(runner, _WORK) if numbers else b""
        event = ThreadingEvent()
        with self._shared(store, event) as shared, serving(algorithm, shared), self._outlasting_members(shared, event):
            part_of = partial(RunnerPart, work, self._for_others(shared, "runner"))
            supervisor = Supervisor(part_of, numbers, shared, self._supervision)
            self._live("algorithm", lambda: algorithm(shared, event), lambda: supervisor.run(event), event)

    def _lead_from_the_runner(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run the runner here, and the algorithm in a process of its own."""
        work = pickled(algorithm, _WORK)
        event, over = ThreadingEvent(), ThreadingEvent()
        with self._shared(store, event) as shared, self._outlasting_members(shared, event):
            part = AlgorithmPart(work, self._for_others(shared, "algorithm"))

            async def run_algorithm() -> None:
                await _run_algorithm(Member(part, "the algorithm", self._cancel_seconds), event, over)

            self._live("runner", run_algorithm, _telling(partial(runner, shared, 0, event), over), event)

    def _take_part(self, runner: RunnerBundle, store: LightningStore) -> None:
        """Run runners here for an algorithm elsewhere, until its run ends."""
        event, over = ThreadingEvent(), ThreadingEvent()
        client = RunClient(url_of(self.server_host, self.server_port), token=self._token)
        shared = client if self.managed_store else _checked(store)
        alone = self.n_runners == 1
        part_of = None if alone else partial(RunnerPart, pickled(runner, _WORK), pickled(shared, "the store"))
        membership = Membership(client if self.managed_store else None)
        run_blocking(Cancellable(partial(membership.join, self.n_runners)))
        runners: CoroutineFactory = partial(runner, shared, membership.first, event)
        if part_of is not None:
            numbers = range(membership.first, membership.first + self.n_runners)
            runners = partial(Supervisor(part_of, numbers, shared, self._supervision).run, event)
        try:
            main: Side = "runner" if alone else "algorithm"
            self._live(main, partial(membership.until_the_end, over), _telling(runners, over), event)
        finally:
            run_blocking(Cancellable(membership.leave))

    def _live(self, main: Side, algorithm: CoroutineFactory, runners: CoroutineFactory, event: ThreadingEvent) -> None:
        join_timeout = self._cancel_seconds + 2 * KILL_DEADLINE
        Lifecycle(main, self.graceful_timeout, join_timeout).run(algorithm, runners, event)

    @contextmanager
    def _shared(self, store: LightningStore, event: ThreadingEvent) -> Generator[LightningStore]:
        """Serve the store inside the block."""
        if not self.managed_store:
            yield _checked(store)
            return
        server = self._started(RunStore(store, event, self.n_runners))
        logger.info("The store of this run is at %s.", server.endpoint)
        try:
            yield server
        finally:
            run_blocking(Cancellable(server.stop))

    @contextmanager
    def _outlasting_members(self, shared: LightningStore, event: ThreadingEvent) -> Generator[None]:
        """Wait after the block for the runners of other machines, which need the store and the gateway to the end."""
        try:
            yield
        finally:
            event.set()
            if isinstance(shared, RunServer) and (left := shared.members.wait_until_gone(self.graceful_timeout)):
                logger.warning("%d members of the run on other machines have not left it.", left)

    def _started(self, store: RunStore) -> RunServer:
        server_at = partial(RunServer, store, self.server_host, token=self._token, advertise_host=self.advertise_host)
        server = server_at(self.server_port)
        try:
            run_blocking(Cancellable(server.start))
        except AddressTaken as error:
            if not self._port_is_usual or self.server_port != PORT:
                raise
            logger.warning("%s; the store of this run gets a free port instead of its usual one.", error)
            server = server_at(0)
            run_blocking(Cancellable(server.start))
        return server

    def _for_others(self, shared: LightningStore, side: Side) -> bytes:
        """Return the store, pickled, for a process that this one starts."""
        if isinstance(shared, RunServer):
            token = runner_token(self._token) if self._token is not None and side == "runner" else self._token
            return pickled(LightningStoreClient(shared.local_endpoint, token=token), "the store")
        return pickled(shared, "the store")


def _telling(work: CoroutineFactory, over: ThreadingEvent) -> CoroutineFactory:
    """Set the event when the work has ended."""

    async def run() -> None:
        try:
            await work()
        finally:
            over.set()

    return run


async def _run_algorithm(member: Member, event: ThreadingEvent, over: ThreadingEvent) -> None:
    """Follow the algorithm's process, which serves what runners need until `over` is set."""

    async def end() -> None:
        await member.done.wait()
        event.set()
        await wait_for_flag(over)
        member.tell(Order.LEAVE)

    ending = asyncio.create_task(end())
    try:
        code = await member.run(event)
    finally:
        ending.cancel()
    if not member.done.is_set():
        raise ExecutionError(f"the process of the algorithm {words_for(code)} before the algorithm ended")


def _checked(store: LightningStore) -> LightningStore:
    """Return a store that all processes see."""
    if not store.capabilities.get("zero_copy"):
        raise ConfigurationError(
            f"managed_store=False hands the store itself to all processes, and a {type(store).__name__} is in "
            "one alone: use a LightningStoreClient or a PostgresLightningStore, or let the run serve it"
        )
    return store


def _role(name: str | None) -> Role:
    if name not in get_args(Role):
        raise ConfigurationError(f"the role (AGL_CURRENT_ROLE) is {name!r}: make it one of {', '.join(get_args(Role))}")
    return cast("Role", name)


def _check_placement(role: Role, main_process: Side, n_runners: int) -> None:
    if main_process not in get_args(Side):
        raise ConfigurationError(f"main_process is {main_process!r}: make it one of {', '.join(get_args(Side))}")
    if main_process == "runner" and (role != "both" or n_runners != 1):
        raise ConfigurationError(
            f"main_process='runner' is for role='both' and n_runners=1, not for {role!r} and {n_runners}"
        )
    if n_runners < (1 if role == "runner" else 0):
        raise ConfigurationError(f"n_runners={n_runners} leaves nothing to do for the role {role!r}")
