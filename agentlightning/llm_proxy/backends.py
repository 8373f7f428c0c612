"""The model servers behind the gateway, as a model list names them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.util import find_spec
from typing import Any, Final, NotRequired, TypedDict

from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.llm_proxy.capabilities import Capabilities, read_capabilities
from agentlightning.llm_proxy.health import Health

_OPENAI_SHAPED: Final = ("openai/", "hosted_vllm/")
"""Prefixes that LiteLLM's names carry for servers that are OpenAI-shaped; the server itself does not know them."""
_OPENAI: Final = "https://api.openai.com/v1"
_DIRECT: Final = frozenset({"model", "api_base", "api_key"})
_FROM_ENVIRONMENT: Final = "os.environ/"
_PROVIDERS: Final = frozenset(
    """
    ai21 anthropic aws_polly azure azure_ai azure_text baseten bedrock cerebras clarifai cloudflare codestral cohere
    cohere_chat dashscope databricks deepinfra deepseek fireworks_ai friendliai gemini github github_copilot groq
    huggingface lambda_ai meta_llama minimax mistral moonshot nebius nlp_cloud novita nscale nvidia_nim oci ollama
    ollama_chat openrouter perplexity predibase replicate sagemaker sagemaker_chat sambanova snowflake together_ai
    triton vercel_ai_gateway vertex_ai volcengine voyage watsonx watsonx_text xai zai
    """.split()
)
"""What LiteLLM takes for a provider and not, as an address beside it suggests, for a model's owner."""


class ModelConfig(TypedDict):
    """A model name that agents may ask for, and the backend behind it.

    Attributes:
        model_name: The name that agents put into requests; entries that share one are replicas of one model.
        litellm_params: `model` (the name the backend knows, perhaps behind `openai/` or `hosted_vllm/`), `api_base`
            (the backend's base URL, usually ending in `/v1`; OpenAI's own for `openai/`) and optionally `api_key`.
            Calls to other providers (`anthropic/…`, `bedrock/…`), or with more parameters, are made by LiteLLM's SDK.
        model_info: May hold `return_token_ids` and `logprobs`: whether the backend is asked for the exact tokens and
            their log-probabilities. OpenAI-shaped ones are if nothing is said, until they refuse.
            And `weights_version`, a whole number: the version of the weights there, for backends whose answers do not
            name it; a new list tells the gateway of new weights.
    """

    model_name: str
    litellm_params: dict[str, Any]
    model_info: NotRequired[dict[str, Any]]


@dataclass(slots=True, eq=False)
class Backend:
    """A model server.

    Attributes:
        model: The name it knows the model by.
        api_base: Its base URL, without a slash at the end; empty if only LiteLLM knows it.
        api_key: The key to send; None passes on what the agent sent.
        litellm: What LiteLLM's SDK needs for a call; None for a server that is OpenAI-shaped and asked directly.
        health: What its last calls say.
        capabilities: What it may be asked for beyond what agents ask for.
        weights_version: The version of its weights now, as configured; None leaves it to its answers.
    """

    model: str
    api_base: str
    api_key: str | None = field(repr=False)
    litellm: dict[str, Any] | None = field(default=None, repr=False)
    health: Health = field(default_factory=Health)
    capabilities: Capabilities = field(default_factory=Capabilities)
    weights_version: int | None = None
    identity: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.identity = blake2b(f"{self.name}\n{self.model}".encode(errors="replace"), digest_size=32).digest()

    @property
    def name(self) -> str:
        """What people know it by: its base URL, or the model's name where LiteLLM knows the address."""
        return self.api_base or self.model

    def is_like(self, other: Backend) -> bool:
        """Whether both are asked in the same way."""
        return self._asked_as() == other._asked_as()

    def _asked_as(self) -> tuple[object, ...]:
        return self.model, self.api_base, self.api_key, self.litellm, self.capabilities.unwanted


def read_backend(entry: ModelConfig) -> Backend:
    """Return the backend of an entry.

    Raises:
        ConfigurationError: It cannot be served.
    """
    name = entry["model_name"]
    parameters = {key: _resolved(name, value) for key, value in entry["litellm_params"].items()}
    model, base = parameters.get("model"), parameters.get("api_base")
    if not isinstance(model, str) or not model:
        raise ConfigurationError(f"model {name!r}: litellm_params needs `model`")
    provider, _, rest = model.partition("/")
    if not base and provider == "openai" and rest:
        base, parameters["api_key"] = _OPENAI, parameters.get("api_key") or os.environ.get("OPENAI_API_KEY")
    reason = _why_litellm(parameters, provider, base)
    version = _weights_version(name, entry)
    own_names = f"{provider}/" in _OPENAI_SHAPED
    capabilities = read_capabilities(name, entry.get("model_info", {}), names_tokens=reason is None or own_names)
    if reason is None:
        direct = rest if own_names else model
        key = parameters.get("api_key")
        return Backend(direct, str(base).rstrip("/"), key, capabilities=capabilities, weights_version=version)
    if find_spec("litellm") is None:
        raise MissingExtra("litellm", "litellm", f"model {name!r}: {reason}, which")
    address = str(base or "").rstrip("/")
    return Backend(model, address, None, litellm=parameters, capabilities=capabilities, weights_version=version)


def _weights_version(name: str, entry: ModelConfig) -> int | None:
    version = entry.get("model_info", {}).get("weights_version")
    if version is not None and (type(version) is not int or version < 0):
        raise ConfigurationError(f"model {name!r}: model_info.weights_version is {version!r}: give a whole number")
    return version


def _why_litellm(parameters: dict[str, Any], provider: str, base: object) -> str | None:
    """Say why a backend is not asked directly; None if it is."""
    further = sorted(parameters.keys() - _DIRECT)
    if further:
        return f"litellm_params has {further} beside {sorted(_DIRECT)}"
    if not base:
        return "litellm_params has no `api_base`"
    return f"{provider!r} is a provider with an API of its own" if provider in _PROVIDERS else None


def _resolved(name: str, value: Any) -> Any:
    """Return a parameter; those that LiteLLM reads from the environment are read here."""
    if not isinstance(value, str) or not value.startswith(_FROM_ENVIRONMENT):
        return value
    variable = value.removeprefix(_FROM_ENVIRONMENT)
    if variable not in os.environ:
        raise ConfigurationError(f"model {name!r}: the environment variable {variable} is not set")
    return os.environ[variable]
