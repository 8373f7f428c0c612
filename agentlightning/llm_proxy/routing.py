"""Which backends answer for which model name."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.llm_proxy.backends import Backend, ModelConfig, read_backend
from agentlightning.llm_proxy.replicas import Replicas


class RoutingTable:
    """The backends of a model list; never changed, only replaced.

    Args:
        model_list: The list.
        before: The table that this one replaces; what is known of backends that stay is kept.

    Attributes:
        model_list: The list as it was given.

    Raises:
        ConfigurationError: An entry that cannot be served.
    """

    def __init__(self, model_list: Sequence[ModelConfig], before: RoutingTable | None = None) -> None:
        self.model_list = tuple(model_list)
        known = before.backends if before else []
        backends: dict[str, list[Backend]] = {}
        versions: list[tuple[Backend, int | None]] = []
        for entry in model_list:
            backend = read_backend(entry)
            kept = _kept(backend, known)
            versions.append((kept, backend.weights_version))
            backends.setdefault(entry["model_name"], []).append(kept)
        for kept, version in versions:  # all entries can be served
            kept.weights_version = version
        self._replicas = {name: Replicas(of_name) for name, of_name in backends.items()}

    @property
    def names(self) -> list[str]:
        """The model names, each once, in the order of the list."""
        return list(self._replicas)

    @property
    def backends(self) -> list[Backend]:
        """All backends."""
        return [backend for replicas in self._replicas.values() for backend in replicas.backends]

    def replicas(self, model_name: object) -> Replicas | None:
        """Return the backends that serve a model, or None for an unknown name."""
        return self._replicas.get(model_name) if isinstance(model_name, str) else None


def _kept(backend: Backend, known: Sequence[Backend]) -> Backend:
    return next((other for other in known if other.is_like(backend)), backend)
