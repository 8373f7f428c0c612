"""How an agent is called: on which side of the event loop, and with which resources."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from agentlightning.types import AttemptedRollout, NamedResources, ProxyLLM


def is_async_callable(function: Callable[..., Any]) -> bool:
    """Whether calling the function gives a coroutine; partials and callable objects are seen through."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # the method is inspected, not its presence


def resolve_proxies(resources: NamedResources, rollout: AttemptedRollout) -> NamedResources:
    """Return the resources with each `ProxyLLM` as a plain `LLM` whose endpoint names the attempt."""
    return {
        name: resource.with_attempted_rollout(rollout) if isinstance(resource, ProxyLLM) else resource
        for name, resource in resources.items()
    }
