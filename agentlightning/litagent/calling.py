"""How an agent is called: on which side of the event loop, and with which resources."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from agentlightning.errors import InvalidAgent, MissingResource
from agentlightning.store.tokens import agent_token, is_runner_token
from agentlightning.types import LLM, AttemptedRollout, NamedResources, ProxyLLM, ResourceUnion


class GivenResources(dict[str, ResourceUnion]):
    """A rollout's resources by name; asking for one that is not there says which ones are."""

    def __missing__(self, name: str) -> NoReturn:
        raise MissingResource(
            f"the agent asks for the resource {name!r}, but the rollout's resources are {list(self)}: "
            "use one of these names, or add it with store.add_resources or Trainer(initial_resources=…)"
        )


def is_async_callable(function: Callable[..., Any]) -> bool:
    """Whether calling the function gives a coroutine; partials and callable objects are seen through."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # the method is inspected, not its presence


def check_method(method: Callable[..., Any]) -> None:
    """Refuse a method that cannot take what an agent's method gets.

    Raises:
        InvalidAgent: It lacks a parameter, or requires one more; the message quotes its signature.
    """
    signature = inspect.signature(method)
    try:
        signature.bind("task", resources={}, rollout=None)
    except TypeError as error:
        name = getattr(method, "__qualname__", repr(method))
        raise InvalidAgent(
            f"{name}{signature} cannot be called, {error}: define it with (self, task, resources, rollout)"
        ) from error


def resolve_proxies(resources: NamedResources, rollout: AttemptedRollout) -> GivenResources:
    """Return the resources with each `ProxyLLM` as a plain `LLM` whose endpoint and key are the attempt's."""
    return GivenResources(
        {
            name: _of_attempt(resource, rollout) if isinstance(resource, ProxyLLM) else resource
            for name, resource in resources.items()
        }
    )


def _of_attempt(model: ProxyLLM, rollout: AttemptedRollout) -> LLM:
    found = model.with_attempted_rollout(rollout)
    if found.api_key is None or not is_runner_token(found.api_key):
        return found
    key = agent_token(found.api_key, rollout.rollout_id, rollout.attempt.attempt_id)
    return found.model_copy(update={"api_key": key})
