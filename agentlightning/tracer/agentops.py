"""AgentOpsTracer: v0.3's default tracer, for programs that want AgentOps' own instrumentors."""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import StatusCode

from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.tracer.active import ActiveTrace
from agentlightning.tracer.otel import OtelTracer
from agentlightning.tracer.processor import connect

if TYPE_CHECKING:
    from agentlightning.store import LightningStore


class AgentOpsTracer(OtelTracer):
    """Records what AgentOps' instrumentors see, under a root span for each trace.

    `OtelTracer` records the same calls and needs no AgentOps: it also works with today's OpenAI SDK, whose streams
    AgentOps does not see. Spans go to the store only, never to AgentOps' service.

    Args:
        agentops_managed: Whether to initialise AgentOps; else the program has done so.
        instrument_managed: Whether to switch AgentOps' instrumentors on.
        daemon: Accepted for v0.3's sake; this tracer has no process of its own.

    Raises:
        MissingExtra: AgentOps is not installed.
        ConfigurationError: The installed OpenAI SDK is one whose streams AgentOps loses.
    """

    def __init__(self, *, agentops_managed: bool = True, instrument_managed: bool = True, daemon: bool = True) -> None:
        super().__init__(instrument=None)
        if find_spec("agentops") is None:
            raise MissingExtra("agentops", "agentops", "AgentOpsTracer (OtelTracer does without, and records more)")
        if instrument_managed:
            _require_openai_that_works()
        self._agentops_managed = agentops_managed
        self._instrument_managed = instrument_managed

    def init_worker(self, worker_id: int, store: LightningStore | None = None, *args: Any, **kwargs: Any) -> None:
        """Remember the worker and its store, and start AgentOps; see `Tracer.init_worker`."""
        super().init_worker(worker_id, store, *args, **kwargs)
        if self._agentops_managed:
            _initialise(self._instrument_managed)

    def get_langchain_handler(self, tags: list[str] | None = None) -> Any:
        """Return AgentOps' callback handler, without which it does not see LangChain."""
        return import_module("agentops.integration.callbacks.langchain").LangchainCallbackHandler(tags=tags)

    @contextmanager
    def _opened(self, trace: ActiveTrace) -> Generator[Any]:
        agentops: Any = import_module("agentops")
        with super()._opened(trace) as tracer:
            session = agentops.start_trace(trace_name=trace.rollout_id or "local")
            state = StatusCode.ERROR
            try:
                yield tracer
                state = StatusCode.OK
            finally:
                agentops.end_trace(session, end_state=state)


@functools.cache
def _initialise(instrument: bool) -> None:
    """Start AgentOps once, with our provider in the place of the one that sends to its service."""
    agentops: Any = import_module("agentops")
    connection = connect()
    agentops.init(auto_start_session=False, instrument_llm_calls=False, log_session_replay_url=False)
    import_module("agentops.sdk.core").tracer.provider = connection.provider
    if instrument:
        import_module("agentops.instrumentation").instrument_all()


def _require_openai_that_works() -> None:
    try:
        major, minor = (int(part) for part in version("openai").split(".")[:2])
    except PackageNotFoundError:
        return
    if (major, minor) >= (1, 92):
        raise ConfigurationError(
            f"AgentOps loses the streams of openai {major}.{minor}, as of every openai since 1.92: "
            "use OtelTracer, which records them, or install openai<1.92"
        )
