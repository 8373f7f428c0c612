"""Which backend answers for which model name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

from agentlightning.errors import ConfigurationError

_PROVIDERS: Final = ("openai/", "hosted_vllm/")
"""Prefixes that LiteLLM's names carry for backends that are OpenAI-shaped; the backend itself does not know them."""
_PARAMETERS: Final = frozenset({"model", "api_base", "api_key"})


class ModelConfig(TypedDict):
    """A model name that agents may ask for, and the backend behind it.

    Attributes:
        model_name: The name that agents put into requests; entries that share one take turns.
        litellm_params: `model` (the name the backend knows, perhaps behind `openai/` or `hosted_vllm/`), `api_base`
            (the backend's base URL, usually ending in `/v1`) and optionally `api_key`.
    """

    model_name: str
    litellm_params: dict[str, Any]


@dataclass(slots=True, eq=False)
class Backend:
    """An OpenAI-shaped server.

    Attributes:
        model: The name it knows the model by.
        api_base: Its base URL, without a slash at the end.
        api_key: The key to send; None passes on what the agent sent.
        nameless_forms: The paths, and whether with a stream, for which it refuses the fields that ask for token ids;
            learned from its answers.
    """

    model: str
    api_base: str
    api_key: str | None
    nameless_forms: set[tuple[str, bool]] = field(default_factory=set[tuple[str, bool]])


class RoutingTable:
    """The backends of a model list; never changed, only replaced.

    Attributes:
        model_list: The list as it was given.

    Raises:
        ConfigurationError: An entry that cannot be served.
    """

    def __init__(self, model_list: Sequence[ModelConfig]) -> None:
        self.model_list = tuple(model_list)
        self.backends = [_backend(entry) for entry in model_list]
        names = [entry["model_name"] for entry in model_list]
        pairs = list(zip(names, self.backends, strict=True))
        self._turns: dict[str, Iterator[Backend]] = {
            name: itertools.cycle([backend for other, backend in pairs if other == name]) for name in names
        }

    @property
    def names(self) -> list[str]:
        """The model names, each once, in the order of the list."""
        return list(self._turns)

    def next_backend(self, model_name: object) -> Backend | None:
        """Return the backend whose turn it is for a model, or None for an unknown name."""
        turns = self._turns.get(model_name) if isinstance(model_name, str) else None
        return next(turns) if turns else None


def _backend(entry: ModelConfig) -> Backend:
    parameters = entry["litellm_params"]
    unknown = parameters.keys() - _PARAMETERS
    if unknown:
        raise ConfigurationError(
            f"model {entry['model_name']!r}: litellm_params has {sorted(unknown)}, but only "
            f"{sorted(_PARAMETERS)} are supported; leave the others out"
        )
    if not parameters.get("model") or not parameters.get("api_base"):
        raise ConfigurationError(f"model {entry['model_name']!r}: litellm_params needs `model` and `api_base`")
    model: str = parameters["model"]
    provider = next((prefix for prefix in _PROVIDERS if model.startswith(prefix)), "")
    return Backend(model.removeprefix(provider), parameters["api_base"].rstrip("/"), parameters.get("api_key"))
