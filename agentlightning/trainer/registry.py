"""The short names of components: our own, and those that installed packages announce."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Final, Literal, TypeAlias

from agentlightning.errors import ConfigurationError

ComponentKind: TypeAlias = Literal["adapter", "algorithm", "llm_proxy", "runner", "store", "strategy", "tracer"]

_OUR_OWN: Final[dict[ComponentKind, dict[str, str]]] = {
    "adapter": {
        "triplet": "agentlightning.adapter.TracerTraceToTriplet",
        "llm_proxy_triplet": "agentlightning.adapter.LlmProxyTraceToTriplet",
        "messages": "agentlightning.adapter.TraceToMessages",
        "trajectories": "agentlightning.adapter.TraceToTrajectories",
    },
    "algorithm": {
        "apo": "agentlightning.algorithm.apo.APO",
        "baseline": "agentlightning.algorithm.Baseline",
        "gepa": "agentlightning.algorithm.gepa.GEPA",
        "grpo": "agentlightning.algorithm.grpo.GRPO",
    },
    "llm_proxy": {"gateway": "agentlightning.llm_proxy.LLMProxy"},
    "runner": {"litagent": "agentlightning.runner.LitAgentRunner"},
    "store": {
        "memory": "agentlightning.store.InMemoryLightningStore",
        "sqlite": "agentlightning.store.SqliteLightningStore",
        "postgres": "agentlightning.store.PostgresLightningStore",
        "client": "agentlightning.store.LightningStoreClient",
    },
    "strategy": {
        "shm": "agentlightning.execution.SharedMemoryExecutionStrategy",
        "cs": "agentlightning.execution.ClientServerExecutionStrategy",
        "ray": "agentlightning.execution.RayExecutionStrategy",
    },
    "tracer": {
        "otel": "agentlightning.tracer.OtelTracer",
        "dummy": "agentlightning.tracer.DummyTracer",
        "agentops": "agentlightning.tracer.AgentOpsTracer",
        "weave": "agentlightning.tracer.weave.WeaveTracer",
    },
}


class Registry(Mapping[str, str]):
    """The short names of one kind of component, each with the dotted path that it stands for.

    A package adds its own through entry points of the group `agentlightning.<kind>`, such as
    `[project.entry-points."agentlightning.algorithm"]` with `ppo = "their_package:PPO"`. Our own names come first.
    The installed packages are looked through only when a name is none of ours.

    Args:
        kind: What the components are.
    """

    def __init__(self, kind: ComponentKind) -> None:
        self.kind = kind
        self._ours = _OUR_OWN[kind]

    def __getitem__(self, name: str) -> str:
        """Return the dotted path; raises `ConfigurationError` if several packages announce the name."""
        if name in self._ours:
            return self._ours[name]
        found = {entry.value: entry for entry in entry_points(group=self._group) if entry.name == name}
        if len(found) > 1:
            raise ConfigurationError(
                f"several packages announce a {self.kind} {name!r}: {sorted(found)}; give the dotted path of one"
            )
        if not found:
            raise KeyError(name)
        return next(iter(found)).replace(":", ".")

    def __iter__(self) -> Iterator[str]:
        yield from self._ours
        yield from sorted({entry.name for entry in entry_points(group=self._group)} - self._ours.keys())

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def _group(self) -> str:
        return f"agentlightning.{self.kind}"
