"""Resources: the versioned things that algorithms tune and agents run with."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from agentlightning.types.core import AttemptedRollout
from agentlightning.types.templates import fill_fstring, fill_jinja


class Resource(BaseModel):
    """Base of all resources; `resource_type` tells them apart on the wire."""

    resource_type: Any


class LLM(Resource):
    """A model behind an OpenAI-shaped endpoint.

    Attributes:
        endpoint: Base URL, usually ending in `/v1`.
        model: The name to put into requests.
        api_key: The key to send; None when the endpoint needs none.
        sampling_parameters: What to add to each request, such as `{"temperature": 1.0}`.
    """

    resource_type: Literal["llm"] = "llm"
    endpoint: str
    model: str
    api_key: str | None = None
    sampling_parameters: dict[str, Any] = Field(default_factory=dict[str, Any])

    def get_base_url(self, *args: Any, **kwargs: Any) -> str:
        """Return the endpoint."""
        return self.endpoint


class ProxyLLM(LLM):
    """A model behind the gateway, whose base URL says which attempt is calling."""

    resource_type: Literal["proxy_llm"] = "proxy_llm"  # pyright: ignore[reportIncompatibleVariableOverride]  # a tag

    def get_base_url(self, rollout_id: str | None = None, attempt_id: str | None = None) -> str:
        """Return the endpoint with the attempt's identity in it.

        `http://host/v1` becomes `http://host/rollout/<rollout_id>/attempt/<attempt_id>/v1`.

        Raises:
            ValueError: When only one id is given.
        """
        if rollout_id is None and attempt_id is None:
            return self.endpoint
        if not isinstance(rollout_id, str) or not isinstance(attempt_id, str):
            raise ValueError("rollout_id and attempt_id must be strings or all be empty")
        base = self.endpoint.removesuffix("/")
        root = base.removesuffix("/v1")
        return f"{root}/rollout/{rollout_id}/attempt/{attempt_id}{base[len(root) :]}"

    def with_attempted_rollout(self, rollout: AttemptedRollout) -> LLM:
        """Return a plain `LLM` whose endpoint names the attempt."""
        return LLM(
            endpoint=self.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id),
            model=self.model,
            api_key=self.api_key,
            sampling_parameters=self.sampling_parameters,
        )


class PromptTemplate(Resource):
    """A prompt with placeholders."""

    resource_type: Literal["prompt_template"] = "prompt_template"
    template: str
    engine: Literal["jinja", "f-string", "poml"]

    def format(self, **kwargs: Any) -> str:
        """Fill the placeholders; what is given and not asked for is ignored.

        In an f-string template `{name}` is a placeholder, so braces that shall stay, those of JSON say, are doubled.
        In a jinja template it is `{{ name }}`, and JSON stands as it is.

        Raises:
            InvalidPrompt: A placeholder is not given, or the template is malformed (a KeyError and a ValueError).
            NotImplementedError: For `poml`, which needs its own library.
        """
        if self.engine == "f-string":
            return fill_fstring(self.template, kwargs)
        if self.engine == "jinja":
            return fill_jinja(self.template, kwargs)
        raise NotImplementedError("poml templates are rendered by the poml library; use engine 'jinja' or 'f-string'")


ResourceUnion: TypeAlias = Annotated[LLM | ProxyLLM | PromptTemplate, Field(discriminator="resource_type")]
NamedResources: TypeAlias = dict[str, ResourceUnion]
"""A set of resources by name; the name is free, agents find resources by it or by type."""


class ResourcesUpdate(BaseModel):
    """One stored set of resources; `version` counts the updates of one `resources_id` from 1."""

    resources_id: str
    create_time: float
    update_time: float
    version: int
    resources: NamedResources
