"""Names and module paths of agent-lightning v0.3 that moved or ended, in five tables."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, Final

MOVED_MODULES: Final[dict[str, str]] = {
    "agentlightning.algorithm.fast": "agentlightning.algorithm.baseline",
    "agentlightning.algorithm.utils": "agentlightning.algorithm.batches",
    "agentlightning.store.client_server": "agentlightning.store",
    "agentlightning.store.memory": "agentlightning.store.sqlite",
    "agentlightning.store.threading": "agentlightning.store.threaded",
    "agentlightning.trainer.init_utils": "agentlightning.trainer.components",
    "agentlightning.utils.id": "agentlightning._internal.ids",
    "agentlightning.utils.metrics": "agentlightning.metrics",
    "agentlightning.utils.otel": "agentlightning.types.attributes",
    "agentlightning.utils.otlp": "agentlightning.tracer.otlp_exporter",
    "agentlightning.utils.system_snapshot": "agentlightning.runner.snapshot",
}
"""Old module path to the module where its public names live now."""

MOVED_NAMES: Final[dict[str, str]] = {
    "agentlightning.algorithm.utils.with_llm_proxy": "agentlightning.algorithm.injection",
    "agentlightning.algorithm.utils.with_store": "agentlightning.algorithm.injection",
    "agentlightning.utils.otel.get_tracer": "agentlightning.tracer.provider",
    "agentlightning.utils.otel.get_tracer_provider": "agentlightning.tracer.provider",
}
"""Names of a moved module that live elsewhere than the others."""

ENDED_MODULES: Final[dict[str, str]] = {
    "agentlightning.cli.prometheus": "/metrics of `agl proxy` and /v1/prometheus of `agl store --tracker prometheus`",
    "agentlightning.cli.vllm": "`vllm serve`, which returns token ids by itself",
    "agentlightning.client": "agentlightning.store and agentlightning.runner",
    "agentlightning.config": "the `agl` command, or typer",
    "agentlightning.execution.inter_process": "ClientServerExecutionStrategy",
    "agentlightning.instrumentation": "OtelTracer(instrument=...)",
    "agentlightning.reward": "agentlightning.emitter",
    "agentlightning.runner.legacy": "LitAgentRunner",
    "agentlightning.server": "agentlightning.store and Trainer",
    "agentlightning.store.collection": "SqliteLightningStore or InMemoryLightningStore",
    "agentlightning.store.collection_based": "SqliteLightningStore or InMemoryLightningStore",
    "agentlightning.store.mongo": "PostgresLightningStore",
    "agentlightning.store.utils": "agentlightning.types.lifecycle",
    "agentlightning.trainer.legacy": "Trainer",
    "agentlightning.utils.server_launcher": "LLMProxy and the inference server, which serve themselves",
    "agentlightning.verl": "GRPO",
}
"""Module paths that ended, with all below them, and what takes their place."""

ENDED_NAMES: Final[dict[str, str]] = {
    "AgentLightningClient": "LightningStore and LitAgentRunner",
    "AgentLightningServer": "LightningStore and Trainer",
    "CollectionBasedLightningStore": "SqliteLightningStore or InMemoryLightningStore",
    "DevTaskLoader": "Trainer.dev",
    "GenericResponse": "the models of agentlightning.types",
    "LegacyAgentRunner": "LitAgentRunner",
    "RolloutLegacy": "Rollout",
    "RolloutRawResultLegacy": "RolloutRawResult",
    "Task": "Rollout, whose `input` is the task",
    "TaskIfAny": "LightningStore.dequeue_rollout, which returns None when there is no task",
    "VERL": "GRPO",
    "lightning_cli": "the `agl` command, or typer",
}
"""Public names that ended, and what takes their place."""

ENDED_DEEPER: Final[dict[str, str]] = {
    "agentlightning.store.memory.estimate_model_size": "len(model.model_dump_json())",
    "agentlightning.utils.metrics.get_prometheus_registry": "PrometheusMetricsBackend().registry",
    "agentlightning.utils.metrics.setup_multiprocess_prometheus": "one PrometheusMetricsBackend a process",
    "agentlightning.utils.metrics.shutdown_metrics": "no call at all: a backend has nothing to shut down",
    "agentlightning.utils.otlp.handle_otlp_export": "LightningStoreServer, which takes OTLP at /v1/traces",
    "agentlightning.utils.otlp.spans_from_proto": "LightningStoreServer, which takes OTLP at /v1/traces",
}
"""Names of moved modules that ended, and what takes their place."""


def raise_ended(name: str) -> None:
    """Raise `ImportError` naming the replacement if `name` ended."""
    if name in ENDED_NAMES:
        raise ImportError(f"agentlightning.{name} of v0.3 does not exist here; use {ENDED_NAMES[name]}")


class _MovedModuleFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports an old module path as a module that reads its names from the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "agentlightning.utils":
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if fullname in ENDED_MODULES:
            raise ImportError(f"{fullname} of v0.3 does not exist here; use {ENDED_MODULES[fullname]}", name=fullname)
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED_MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        home = MOVED_MODULES.get(module.__name__)
        if home is not None:
            module.__dict__["__getattr__"] = partial(_read, module.__name__, home)


def _read(old: str, home: str, name: str) -> Any:
    full = f"{old}.{name}"
    if full in ENDED_DEEPER:
        raise ImportError(f"{full} of v0.3 does not exist here; use {ENDED_DEEPER[full]}", name=old)
    return getattr(importlib.import_module(MOVED_NAMES.get(full, home)), name)


def install() -> None:
    """Let old module paths be imported; doing it twice does nothing."""
    if not any(isinstance(finder, _MovedModuleFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModuleFinder())
