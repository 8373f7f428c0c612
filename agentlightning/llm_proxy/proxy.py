"""`LLMProxy`: the gateway as an object with a lifecycle."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from starlette.routing import Route

from agentlightning.errors import ConfigurationError
from agentlightning.llm_proxy.app import create_app
from agentlightning.llm_proxy.backends import ModelConfig
from agentlightning.llm_proxy.control_routes import ControlEndpoints
from agentlightning.llm_proxy.dispatch import Dispatcher
from agentlightning.llm_proxy.ended import check_ended
from agentlightning.llm_proxy.exposition import Exposition, gauges_of
from agentlightning.llm_proxy.health import Prober
from agentlightning.llm_proxy.hold import Gate
from agentlightning.llm_proxy.journal import LIMIT_BYTES, Journal
from agentlightning.llm_proxy.journal_lock import alone_in
from agentlightning.llm_proxy.local_control import LocalControl
from agentlightning.llm_proxy.metrics import Meter
from agentlightning.llm_proxy.overrides import SamplingOverrides
from agentlightning.llm_proxy.place import Place, place_of
from agentlightning.llm_proxy.routing import RoutingTable
from agentlightning.llm_proxy.sequence import SequenceReserver
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.tokens import TokenCheck
from agentlightning.llm_proxy.upstream import Upstream
from agentlightning.serving import EmbeddedServer, OwnLoop
from agentlightning.store.access import Access
from agentlightning.store.base import LightningStore
from agentlightning.store.tokens import agent_token, required_token, runner_token
from agentlightning.types import LLM, ProxyLLM, RolloutMode

logger = logging.getLogger(__name__)

_SHIP_SECONDS: Final = 5.0


class LLMProxy(LocalControl):
    """Stands between agents and OpenAI-shaped model servers and records every call as a span of its attempt.

    An agent's base URL names its attempt (`…/rollout/<id>/attempt/<id>/v1`), so a program in any language is recorded
    without a change. The reply never waits for the store: calls are journaled on disk and shipped in the background.
    Streams pass event by event, and are recorded as the answers that they amount to.
    Agents may speak Chat Completions, Completions, Responses or Anthropic's Messages; servers need chat completions.

    An attempt may report its rewards, too: `POST /api/rollouts/<id>/attempt/<id>/events` takes
    `{"event_type": "reward", "data": {"value": 1.0}}`, a `message` with `{"message": "…"}`, or anything else, which
    becomes an annotation. The base URLs of v1.0 (`/proxy/rollout/<id>/attempt/<id>/mode/train/openai/v1`) work as well.

    While weights change, `async with proxy.hold():` makes calls wait in the gateway; agents notice nothing.

    Args:
        port: Port to bind; None or 0 picks a free one, which `restart` keeps.
        model_list: The models to serve; see `ModelConfig`.
        store: Where calls go; needed before `start`.
        host: Address to bind; by default that of the store's server, if the store is one that a run serves to other
            machines, and else loopback.
        journal_dir: Where calls wait for the store, replayed at the next start if the process dies. By default a
            temporary directory, which `stop` removes when the store has everything. One gateway at a time may use it.
        journal_bytes: How much may wait there. When it is full, calls are answered and not recorded; the log and the
            flush that ends an attempt say so.
        launch_mode: "asyncio" serves from the event loop that calls `start`; "thread" from one of its own, whatever the
            program's loop does. v0.3's "mp" is the same: a call takes too little time to be worth a process here. For
            a gateway in a process of its own there is `agl proxy`.
        timeout: Seconds within which a call is answered, with its retries; of a stream, the longest silence.
        num_retries: How often a call that a backend refused for now (408, 409, 429, 5xx), or that nobody answered, is
            made again. A call is never made again once its stream has begun.
        sampling_overrides: What calls are sampled with, whatever the agent asks for, by the mode of their rollout:
            `{"train": {"temperature": 1.0}, "val": {"temperature": 0.7}}`.
        token: The administrator's token, `AGL_TOKEN` by default, or that of the server that the gateway follows; the
            same as the store's, so that one token is enough for an agent. With one, callers must present theirs, as
            `Authorization: Bearer` or `x-api-key`, and backends get the key of their `model_list` entry only. Without,
            the gateway serves this machine alone.
        litellm_config: v0.3's, refused.
        num_workers: 1; v0.3's several workers are refused.
        launcher_args: v0.3's, refused.
        middlewares: v0.3's; the names of its own are accepted, for what they did is done anyway.
        callbacks: Likewise.

    Raises:
        ConfigurationError: The model list cannot be served, the journal could hold nothing, or other machines could
            call without a token.
    """

    def __init__(
        self,
        port: int | None = None,
        model_list: Sequence[ModelConfig] | None = None,
        store: LightningStore | None = None,
        host: str | None = None,
        *,
        journal_dir: str | Path | None = None,
        journal_bytes: int = LIMIT_BYTES,
        launch_mode: Literal["asyncio", "thread", "mp"] = "asyncio",
        timeout: float = 600.0,
        num_retries: int = 2,
        sampling_overrides: Mapping[RolloutMode, Mapping[str, Any]] | None = None,
        token: str | None = None,
        litellm_config: None = None,
        num_workers: int = 1,
        launcher_args: None = None,
        middlewares: Sequence[str] | None = None,
        callbacks: Sequence[str] | None = None,
    ) -> None:
        check_ended(litellm_config, num_workers, launcher_args, middlewares, callbacks)
        self._port = port or 0
        self._host = host
        self._token = required_token(host or "127.0.0.1", token)
        self._store = store
        self._table = RoutingTable(model_list or ())
        self._journal_dir = Path(journal_dir) if journal_dir is not None else None
        if journal_bytes <= 0:
            raise ConfigurationError(f"journal_bytes must be positive, not {journal_bytes}")
        self._journal_bytes = journal_bytes
        self._launch_mode = _checked(launch_mode)
        self._timeout = timeout
        self._num_retries = num_retries
        self._overrides = SamplingOverrides(sampling_overrides or {}, self._required_store)
        self._running: _Running | None = None
        self._own_loop: OwnLoop | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the store and what runs: the process that unpickles it has its own."""
        return {**vars(self), "_store": None, "_running": None, "_own_loop": None}

    def get_store(self) -> LightningStore | None:
        """Return the store, or None."""
        return self._store

    def set_store(self, store: LightningStore) -> None:
        """Set the store; while the gateway runs, later calls go there."""
        self._store = store

    @property
    def model_list(self) -> list[ModelConfig]:
        """The models as they were given; a list of the caller's own, to change and to hand to `update_model_list`."""
        return list(self._table.model_list)

    def update_model_list(self, model_list: Sequence[ModelConfig]) -> None:
        """Replace the models, also while the gateway runs and from any thread; calls in flight end where they began.

        Raises:
            ConfigurationError: The list cannot be served; the old one stays.
        """
        self._table = RoutingTable(model_list, self._table)

    def is_running(self) -> bool:
        """Whether the gateway accepts calls."""
        return self._running is not None and self._running.server.running

    @property
    def in_flight(self) -> int:
        """How many calls backends work on, with the streams that are not at their end."""
        return self._running.gate.in_flight if self._running is not None else 0

    def _gate(self) -> Gate:
        if self._running is None:
            raise ConfigurationError(
                "the gateway does not run, so that there are no calls to hold: await start() first"
            )
        return self._running.gate

    async def start(self) -> None:
        """Serve, and replay what the journal holds.

        Raises:
            ConfigurationError: There is no store, or none that the gateway's thread may use, or the address cannot be
                bound, or another gateway uses the journal.
        """
        if self.is_running():
            return
        store = self._required_store()
        if self._launch_mode == "asyncio":
            self._running = await self._open()
        elif not store.capabilities.get("thread_safe"):
            raise ConfigurationError(f"{type(store).__name__} serves one thread only: use launch_mode='asyncio'")
        else:
            own_loop = OwnLoop("agl-gateway")
            try:
                self._running = await own_loop.run(self._open())
            except BaseException:
                await own_loop.close()
                raise
            self._own_loop = own_loop
        self._port = urlsplit(self._running.server.url).port or 0

    async def _open(self) -> _Running:
        place = place_of(self._host, self._token, self._required_store())
        running = _Running(
            lambda: self._table,
            self._required_store,
            place,
            self._port,
            self._journal_dir,
            self._journal_bytes,
            self._timeout,
            self._num_retries,
            self._overrides,
        )
        await running.start()
        return running

    async def stop(self) -> None:
        """Let calls in flight end for a moment, ship what was recorded, and close."""
        running, self._running = self._running, None
        own_loop, self._own_loop = self._own_loop, None
        if running is None:
            return
        if own_loop is None:
            return await running.stop()
        try:
            await own_loop.run(running.stop())
        finally:
            await own_loop.close()

    async def restart(self) -> None:
        """Stop and start again at the same address."""
        await self.stop()
        await self.start()

    def as_resource(
        self,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        model: str | None = None,
        sampling_parameters: dict[str, Any] | None = None,
    ) -> LLM:
        """Return the gateway as a resource whose endpoint, ending in `/v1`, is an OpenAI base URL.

        If the gateway wants tokens, that of runners is the key of a `ProxyLLM`; agents get one for their attempt only.

        Args:
            rollout_id: With `attempt_id`: give an `LLM` for that attempt alone; with neither, a `ProxyLLM` for all.
            attempt_id: See `rollout_id`.
            model: The model name; may be left out when the gateway serves only one.
            sampling_parameters: What agents should add to their requests.

        Raises:
            ConfigurationError: The gateway does not run, or there are several models and none was named.
            ValueError: Only one id is given.
        """
        if self._running is None:
            raise ConfigurationError("the gateway has no address before it runs: await start() first")
        holder = self._running.token and runner_token(self._running.token)
        template = ProxyLLM(
            endpoint=f"{self._running.url}/v1",
            model=model or self._only_model(),
            api_key=holder,
            sampling_parameters=sampling_parameters or {},
        )
        endpoint = template.get_base_url(rollout_id, attempt_id)
        if rollout_id is None or attempt_id is None:
            return template
        return LLM(
            endpoint=endpoint,
            model=template.model,
            api_key=holder and agent_token(holder, rollout_id, attempt_id),
            sampling_parameters=template.sampling_parameters,
        )

    def _only_model(self) -> str:
        names = self._table.names
        if len(names) != 1:
            raise ConfigurationError(f"the gateway serves {names}: say which one with model=…")
        return names[0]

    def _required_store(self) -> LightningStore:
        if self._store is None:
            raise ConfigurationError("the gateway has no store: pass store=… or call set_store before start")
        return self._store


def _checked(launch_mode: str) -> str:
    if launch_mode not in ("asyncio", "thread", "mp"):
        raise ConfigurationError(f"launch_mode is {launch_mode!r}: use 'asyncio' or 'thread'")
    return launch_mode


class _Running:
    """What exists between `start` and `stop`."""

    def __init__(
        self,
        get_table: Callable[[], RoutingTable],
        get_store: Callable[[], LightningStore],
        place: Place,
        port: int,
        journal_dir: Path | None,
        journal_bytes: int,
        timeout: float,
        num_retries: int,
        overrides: SamplingOverrides,
    ) -> None:
        self._place = place
        self.token: Final = place.token
        self._temporary = journal_dir is None
        self._journal_dir = journal_dir or Path(tempfile.mkdtemp(prefix="agentlightning-gateway-"))
        self._alone = ExitStack()
        if not self._temporary:
            self._alone.enter_context(alone_in(self._journal_dir))
        self._shipper = Shipper(Journal(self._journal_dir, journal_bytes), get_store)
        self._sequences = SequenceReserver(get_store)
        self._upstream = Upstream(timeout)
        self._prober = Prober(self._upstream.is_alive, lambda backend: backend in get_table().backends)
        self.gate = Gate()
        dispatcher = Dispatcher(self._prober, self.gate, timeout, num_retries)
        meter = Meter()
        control = ControlEndpoints(self.gate, Access(None) if self.token is None else None)
        exposition = Exposition(meter, self.gate, gauges_of(self._shipper))
        app = create_app(
            get_table,
            self._upstream,
            dispatcher,
            self._sequences,
            self._shipper,
            get_store,
            self.gate,
            overrides,
            meter,
            routes=[*control.routes(), Route("/metrics", exposition.metrics)],
        )
        guarded = app if self.token is None else TokenCheck(app, self.token)
        self.server = EmbeddedServer(guarded, place.host, port, on_stop=self.gate.shut)

    @property
    def url(self) -> str:
        """Where others reach it."""
        return self._place.url(self.server.url)

    async def start(self) -> None:
        self._shipper.start()
        try:
            await self.server.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        async with AsyncExitStack() as remaining:  # if this is interrupted, what is open is still closed
            remaining.callback(self._alone.close)
            remaining.push_async_callback(self._sequences.close)
            remaining.push_async_callback(self._ship_rest)
            remaining.push_async_callback(self._upstream.close)
            remaining.push_async_callback(self._prober.close)
            await self.server.stop()

    async def _ship_rest(self) -> None:
        if not await self._shipper.close(_SHIP_SECONDS):
            logger.warning(
                "the store did not take all model calls; start a gateway with journal_dir=%r to write them later",
                str(self._journal_dir),
            )
        elif self._temporary:
            with suppress(OSError):  # it is gone already, or holds what was set aside, which the log names
                self._journal_dir.rmdir()
