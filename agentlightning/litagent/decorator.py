"""Agents as functions: `@rollout`, `@llm_rollout` and `@prompt_rollout`."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from agentlightning.errors import InvalidAgent
from agentlightning.litagent.calling import is_async_callable, resolve_proxies
from agentlightning.litagent.inject import fill, wanted_parameters
from agentlightning.litagent.litagent import LitAgent
from agentlightning.types import AttemptedRollout, NamedResources, Rollout, RolloutMode, RolloutRawResult

T = TypeVar("T")


class FunctionalLitAgent(LitAgent[T], Generic[T]):
    """An agent made of one function, which gets the resources it names; see `inject` for the rules.

    Calling the agent calls the function as it is. Functions of importable modules are pickled by name.

    Args:
        rollout_func: The function; sync functions run in a thread, coroutine functions on the event loop.
        strip_proxy: Whether a `ProxyLLM` becomes a plain `LLM` whose endpoint names the attempt.

    Raises:
        InvalidAgent: The function's parameters cannot be filled.
    """

    def __init__(self, rollout_func: Callable[..., Any], *, strip_proxy: bool = True) -> None:
        super().__init__()
        self._function = rollout_func
        self._is_async = is_async_callable(rollout_func)
        self._wanted = wanted_parameters(rollout_func, strip_proxy)
        self.strip_proxy = strip_proxy
        functools.update_wrapper(self, rollout_func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, with nothing filled in."""
        return self._function(*args, **kwargs)

    def __reduce__(self) -> Any:
        """Pickle by name where the name leads back here, otherwise by the function."""
        module, name = getattr(self, "__module__", None), getattr(self, "__qualname__", "")
        if module != "__main__" and getattr(sys.modules.get(module or ""), name, None) is self:
            return name
        return _rebuild, (self._function, self.strip_proxy)

    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return self._is_async

    def method_for(self, mode: RolloutMode | None) -> Callable[..., Any]:
        """Return the method that calls the function, whatever the mode."""
        return self.rollout_async if self._is_async else self.rollout

    def rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Call the function with the task and what it asks for.

        Raises:
            RuntimeError: It is a coroutine function.
            MissingResource: A resource it needs is not there.
        """
        if self._is_async:
            raise RuntimeError("this agent is a coroutine function: await rollout_async")
        return self._function(task, **self._arguments(resources, rollout))

    async def rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Await the function with the task and what it asks for.

        Raises:
            RuntimeError: It is not a coroutine function.
            MissingResource: A resource it needs is not there.
        """
        if not self._is_async:
            raise RuntimeError("this agent is not a coroutine function: call rollout")
        return await self._function(task, **self._arguments(resources, rollout))

    def _arguments(self, resources: NamedResources, rollout: Rollout) -> dict[str, Any]:
        if self.strip_proxy and isinstance(rollout, AttemptedRollout):
            resources = resolve_proxies(resources, rollout)
        return fill(self._wanted, resources, rollout)


def _rebuild(function: Callable[..., Any], strip_proxy: bool) -> FunctionalLitAgent[Any]:
    return FunctionalLitAgent(function, strip_proxy=strip_proxy)


@overload
def rollout(func: Callable[..., Any], *, strip_proxy: bool = True) -> FunctionalLitAgent[Any]: ...
@overload
def rollout(
    func: None = None, *, strip_proxy: bool = True
) -> Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]: ...
def rollout(
    func: Callable[..., Any] | None = None, *, strip_proxy: bool = True
) -> FunctionalLitAgent[Any] | Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]:
    """Make an agent of a function whose first parameter is `task`.

    The other parameters get the resource of their name, or of their type: `llm`, `prompt_template`, `rollout`,
    `resources`, or anything annotated as `LLM` or `PromptTemplate`.

    Args:
        func: The function; None when the decorator is called with options.
        strip_proxy: Whether a `ProxyLLM` becomes a plain `LLM` whose endpoint names the attempt.

    Raises:
        InvalidAgent: A parameter cannot be filled.
    """
    if func is None:
        return functools.partial(FunctionalLitAgent[Any], strip_proxy=strip_proxy)
    return FunctionalLitAgent(func, strip_proxy=strip_proxy)


@overload
def llm_rollout(func: Callable[..., Any], *, strip_proxy: bool = True) -> FunctionalLitAgent[Any]: ...
@overload
def llm_rollout(
    func: None = None, *, strip_proxy: bool = True
) -> Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]: ...
def llm_rollout(
    func: Callable[..., Any] | None = None, *, strip_proxy: bool = True
) -> FunctionalLitAgent[Any] | Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]:
    """Make an agent of a function with the parameters `task` and `llm`; see `rollout`.

    Args:
        func: The function; None when the decorator is called with options.
        strip_proxy: Whether a `ProxyLLM` becomes a plain `LLM` whose endpoint names the attempt.

    Raises:
        InvalidAgent: There is no parameter `llm`, or another one cannot be filled.
    """
    if func is None:
        return functools.partial(llm_rollout, strip_proxy=strip_proxy)
    _require(func, "llm")
    return FunctionalLitAgent(func, strip_proxy=strip_proxy)


@overload
def prompt_rollout(func: Callable[..., Any]) -> FunctionalLitAgent[Any]: ...
@overload
def prompt_rollout(func: None = None) -> Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]: ...
def prompt_rollout(
    func: Callable[..., Any] | None = None,
) -> FunctionalLitAgent[Any] | Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]:
    """Make an agent of a function with the parameters `task` and `prompt_template`; see `rollout`.

    Raises:
        InvalidAgent: There is no parameter `prompt_template`, or another one cannot be filled.
    """
    if func is None:
        return prompt_rollout
    _require(func, "prompt_template")
    return FunctionalLitAgent(func)


def _require(function: Callable[..., Any], name: str) -> None:
    signature = inspect.signature(function)
    if name not in signature.parameters:
        raise InvalidAgent(f"the agent needs a parameter `{name}`: {getattr(function, '__name__', '')}{signature}")
