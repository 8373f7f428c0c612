"""The algorithm here, and the runners spread over a Ray cluster."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agentlightning.env_var import LightningEnvVar, resolve_int_env_var, resolve_str_env_var
from agentlightning.errors import ConfigurationError
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle, serving
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.lifecycle import Lifecycle
from agentlightning.execution.loop_thread import Cancellable, CoroutineFactory, run_blocking
from agentlightning.execution.member import log_level
from agentlightning.execution.ray_cluster import connected, load_ray
from agentlightning.execution.ray_member import RayMember
from agentlightning.execution.ray_runner import RayAssignment, RayRunner
from agentlightning.execution.ray_store import RayRunClient, RayRunStore
from agentlightning.execution.ray_supervisor import RaySupervision, RaySupervisor
from agentlightning.execution.run_store import RunServer
from agentlightning.processes.pickling import pickled
from agentlightning.serving import is_loopback
from agentlightning.store import LightningStore
from agentlightning.store.tokens import generate_token, runner_token, token_given

logger = logging.getLogger(__name__)

_OURS: Final = frozenset({"num_cpus", "max_restarts", "max_task_retries", "max_concurrency", "lifetime", "name"})
_THREADS: Final = 8
"""Calls of an actor at once: its run, orders, and the questions that Ray asks again after a break of the network."""
_END_SECONDS: Final = 20.0
"""For the thread of the runners, once the last of them has ended or was killed."""


class RayExecutionStrategy(ExecutionStrategy):
    """Runs the algorithm in the calling process and `n_runners` runners as actors of a Ray cluster.

    The calling process, which is on a node of the cluster, serves the store to the runners. Ray finds places for them,
    and starts one that dies again, on another node if its own is gone; what it held is released at once.

    Args:
        n_runners: How many runners.
        address: The cluster's; "auto" for the one that this machine belongs to. None takes `RAY_ADDRESS`, and without
            one starts a cluster of this machine alone for as long as the run lasts, as "local" does in any case. A
            program that has called `ray.init` itself stays in its cluster.
        num_cpus: CPUs that Ray sets aside for each runner; a fraction where agents mostly wait.
        actor_options: What else Ray's `options` takes for each runner: `num_gpus`, `resources`, `memory`,
            `runtime_env`, `scheduling_strategy` ("SPREAD" by default), …
        max_restarts: How often Ray starts a runner again; -1 for always.
        min_runners: The run ends with an error when fewer are left, or fewer are there for `start_timeout` seconds.
        start_timeout: Seconds that the cluster has to find places for `min_runners` runners.
        server_host: The address that the store's server binds; `AGL_SERVER_HOST` by default, and else this machine's in
            the cluster: 127.0.0.1 in one that is started here.
        server_port: Its port; `AGL_SERVER_PORT` by default, and else a free one.
        advertise_host: The name under which the nodes find the server, if it is not the address that it binds.
        token: What callers of the server must present; `AGL_TOKEN` by default, and else one that is made up where other
            machines can call. Runners get one with fewer rights.
        graceful_timeout: Seconds that runners get for the rollouts in hand when the algorithm has ended.
        terminate_timeout: Seconds that a runner gets to clean up once it was cancelled, before it is killed.

    Raises:
        ConfigurationError: The arguments contradict each other.
    """

    def __init__(
        self,
        n_runners: int = 1,
        address: str | None = None,
        *,
        num_cpus: float = 1.0,
        actor_options: Mapping[str, Any] | None = None,
        max_restarts: int = 5,
        min_runners: int = 1,
        start_timeout: float = 60.0,
        server_host: str | None = None,
        server_port: int | None = None,
        advertise_host: str | None = None,
        token: str | None = None,
        graceful_timeout: float = 10.0,
        terminate_timeout: float = 10.0,
    ) -> None:
        if not 1 <= min_runners <= n_runners:
            raise ConfigurationError(
                f"{n_runners=} and {min_runners=} cannot be: make it 1 <= min_runners <= n_runners"
            )
        if taken := sorted(_OURS & (actor_options or {}).keys()):
            raise ConfigurationError(f"actor_options say {', '.join(taken)}, which the strategy sees to")
        self.n_runners = n_runners
        self.address = address
        self.num_cpus = num_cpus
        self.server_host = resolve_str_env_var(LightningEnvVar.AGL_SERVER_HOST, server_host)
        self.server_port = resolve_int_env_var(LightningEnvVar.AGL_SERVER_PORT, server_port) or 0
        self.advertise_host = advertise_host
        self.graceful_timeout = graceful_timeout
        self._cancel_seconds = terminate_timeout
        self._token = token_given(token)
        self._options = {"scheduling_strategy": "SPREAD", **(actor_options or {}), "num_cpus": num_cpus}
        self._max_restarts = max_restarts
        asks = ", ".join(f"{name}={value!r}" for name, value in self._options.items() if name != "runtime_env")
        self._supervision = RaySupervision(n_runners, min_runners, start_timeout, asks)

    @property
    def supervises(self) -> bool:
        """Runners live in processes of their own."""
        return True

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run everything to its end; see `ExecutionStrategy.execute`.

        Raises:
            MissingExtra: Ray is not installed.
            ConfigurationError: It is too old, there is no such cluster, or something cannot be sent to other processes;
                the message names it.
            AddressTaken: The store cannot be served where it should be.
            ExecutionError: Too few runners are left, or there is no room for them.
            SystemExit: SIGTERM came, and all was stopped; with code 143.
        """
        work = pickled(runner, "the run")
        event = ThreadingEvent()
        with (
            connected(self.address, self.n_runners * self.num_cpus) as host,
            self._served(store, host, event) as (shared, server),
            serving(algorithm, server),
        ):
            supervise = self._supervise(work, shared, server, event)
            join_timeout = self._cancel_seconds + _END_SECONDS
            lifecycle = Lifecycle("algorithm", self.graceful_timeout, join_timeout)
            lifecycle.run(lambda: algorithm(server, event), supervise, event)

    @contextmanager
    def _served(
        self, store: LightningStore, host: str, event: ThreadingEvent
    ) -> Generator[tuple[RayRunStore, RunServer]]:
        """Serve the store inside the block."""
        host = self.server_host or host
        token = self._token or (None if is_loopback(host) else generate_token())
        shared = RayRunStore(store, event, self.n_runners)
        server = RunServer(shared, host, self.server_port, token, self.advertise_host)
        run_blocking(Cancellable(server.start))
        logger.info("The store of this run is at %s.", server.endpoint)
        try:
            yield shared, server
        finally:
            run_blocking(Cancellable(server.stop))

    def _supervise(
        self, work: bytes, shared: RayRunStore, server: RunServer, event: ThreadingEvent
    ) -> CoroutineFactory:
        async def run() -> None:
            start = self._starter(work, server)
            await RaySupervisor(start, shared.names_of, shared, self._supervision).run(event)

        return run

    def _starter(self, work: bytes, server: RunServer) -> Callable[[int], RayMember]:
        """Return what makes the actor of a runner."""
        ray = load_ray()
        actor = ray.remote(RayRunner).options(
            **self._options, max_restarts=self._max_restarts, max_task_retries=0, max_concurrency=_THREADS
        )
        bundle = ray.put(work)
        client = RayRunClient(server.endpoint, token=server.token and runner_token(server.token))
        path = tuple(str(Path(folder).absolute()) for folder in sys.path)

        def start(number: int) -> RayMember:
            assignment = RayAssignment(client, number, log_level(), path)
            return RayMember(actor.remote(assignment), bundle, f"runner {number}", self._cancel_seconds)

        return start
