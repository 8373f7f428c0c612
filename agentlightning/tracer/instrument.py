"""SDKs and frameworks made to record their model calls, by the OpenInference instrumentors that are installed."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal

from wrapt import (
    register_post_import_hook,  # pyright: ignore[reportUnknownVariableType]  # without stubs
)

from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.tracer.processor import connect

if TYPE_CHECKING:
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

logger = logging.getLogger(__name__)

Instrument = Literal["auto"] | Sequence[str] | None
"""Which instrumentors to use: all that are installed, these, or none."""

EXTRA: Final = "instrument"
SHIPPED: Final = ("openai", "anthropic", "langchain", "openai_agents")
"""The instrumentors that the extra `instrument` installs."""
_LAST_IMPORTED: Final = {"langchain": "langchain_core.callbacks.base", "openai_agents": "agents"}
"""Where it is not called as the instrumentor is: the module after whose import a library can be instrumented."""


def chosen(instrument: Instrument) -> tuple[str, ...]:
    """Return the names of the instrumentors to use.

    Raises:
        MissingExtra: One is not installed that the extra `instrument` brings.
        ConfigurationError: Nothing that is installed has this name.
    """
    if instrument is None:
        return ()
    if instrument == "auto":
        return tuple(_installed())
    if isinstance(instrument, str):
        raise ConfigurationError(f'instrument={instrument!r}: give "auto", a list of names such as ["openai"], or None')
    names = [name.replace("-", "_") for name in instrument]
    for name in names:
        if name not in _installed():
            raise _missing(name)
    return tuple(dict.fromkeys(names))


def instrumented() -> frozenset[str]:
    """Return the names of the instrumentors that are switched on in this process, by whomever."""
    return frozenset(
        name for name in _installed() if _is_imported(name) and _instrumentor(name).is_instrumented_by_opentelemetry
    )


def imported_but_not_instrumented() -> list[str]:
    """Return the names in `SHIPPED` whose library this process has imported, and whose instrumentor is not on."""
    on = instrumented()
    return [name for name in SHIPPED if _is_imported(name) and name not in on]


class Instrumentors:
    """The instrumentors of the process, each on while a tracer holds it.

    A library is instrumented when the agent has imported it, never imported for it. What somebody else switched on is
    left to them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: Counter[str] = Counter()
        self._awaited: set[str] = set()
        self._broken: set[str] = set()
        self._ours: dict[str, BaseInstrumentor | None] = {}

    def hold(self, names: Sequence[str]) -> None:
        """Switch these on now, or when their library is imported."""
        with self._lock:
            self._holders.update(names)
        for name in names:
            if _is_imported(name):
                self._switch_on(name)
            elif name not in self._awaited:
                self._awaited.add(name)
                register_post_import_hook(functools.partial(self._imported, name), _last_imported(name))

    def release(self, names: Sequence[str]) -> None:
        """Switch off those that nobody holds any more."""
        with self._lock:
            self._holders.subtract(names)
        for name in names:
            self._switch_off(name)

    def _imported(self, name: str, module: ModuleType) -> None:
        self._awaited.discard(name)
        if _is_imported(name):
            self._switch_on(name)

    def _switch_on(self, name: str) -> None:
        with self._lock:
            if name in self._ours or name in self._broken or self._holders[name] <= 0:
                return
            self._ours[name] = None  # claimed; the lock is not held meanwhile, as imports have locks of their own
        try:
            instrumentor = _switched_on(name)
        except Exception as error:  # noqa: BLE001  # the agent may be importing its library, which must not fail for this
            logger.warning("Calls of %s are not traced: %s: %s", name, type(error).__name__, error)
            self._broken.add(name)
            instrumentor = None
        with self._lock:
            if instrumentor is None:
                del self._ours[name]
            else:
                self._ours[name] = instrumentor
        self._switch_off(name)

    def _switch_off(self, name: str) -> None:
        with self._lock:
            if self._holders[name] > 0 or self._ours.get(name) is None:
                return
            instrumentor = self._ours.pop(name)
        assert instrumentor is not None
        instrumentor.uninstrument()


@functools.cache
def instrumentors() -> Instrumentors:
    """Return the instrumentors of the process: SDKs are patched for all of it."""
    return Instrumentors()


@functools.cache
def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="openinference_instrumentor")}


def _last_imported(name: str) -> str:
    return _LAST_IMPORTED.get(name, name)


def _is_imported(name: str) -> bool:
    module = _last_imported(name)
    if module not in sys.modules:
        return False
    # Those that we ship are for packages: a file that is called agents.py is the user's own.
    return name not in SHIPPED or hasattr(sys.modules.get(module.partition(".")[0]), "__path__")


def _instrumentor(name: str) -> BaseInstrumentor:
    return _installed()[name].load()()


def _switched_on(name: str) -> BaseInstrumentor | None:
    """Switch the instrumentor on and return it; None if somebody else has."""
    instrumentor = _instrumentor(name)
    if instrumentor.is_instrumented_by_opentelemetry:
        return None
    # With our own provider: neither a sampler nor an attribute limit of somebody else's may lose a prompt.
    instrumentor.instrument(
        tracer_provider=connect().provider,
        config=_nothing_hidden(),
        raise_exception_on_conflict=True,
        **({"exclusive_processor": _agents_are_sent_to_openai_only()} if name == "openai_agents" else {}),
    )
    if name == "langchain":
        _run_callbacks_inline(instrumentor)
    return instrumentor


def _nothing_hidden() -> object:
    """OpenInference's configuration that keeps all content: what is cut or hidden cannot be trained on."""
    from openinference.instrumentation import TraceConfig

    hide: dict[str, Any] = {
        field.name: False for field in dataclasses.fields(TraceConfig) if field.name.startswith("hide_")
    }
    return TraceConfig(**hide, base64_image_max_length=sys.maxsize)


def _run_callbacks_inline(instrumentor: BaseInstrumentor) -> None:
    """Let LangChain tell of a run in the task of the run, so that what an SDK does in there is known to be part of it.

    By default it tells in another thread, for every start and every end.
    """
    handler = getattr(instrumentor, "_tracer", None)
    if handler is not None:
        handler.run_inline = True


def _agents_are_sent_to_openai_only() -> bool:
    """Whether all that is registered with the Agents SDK is its own exporter, which sends each run to OpenAI.

    It rests while a tracer is there; what the program has registered goes on.
    """
    from agents.tracing import get_trace_provider
    from agents.tracing.processors import default_processor

    registered = getattr(getattr(get_trace_provider(), "_multi_processor", None), "_processors", ())
    return list(registered) == [default_processor()]


def _missing(name: str) -> ConfigurationError:
    package = f"openinference-instrumentation-{name.replace('_', '-')}"
    if name in SHIPPED:
        return MissingExtra(package, EXTRA, f"OtelTracer(instrument=[{name!r}])")
    return ConfigurationError(
        f"no OpenInference instrumentor called {name!r} is installed (there are: {', '.join(sorted(_installed()))}): "
        f"pip install {package}"
    )
