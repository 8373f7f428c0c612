"""Agents as functions: `@rollout`, `@llm_rollout` and `@prompt_rollout`."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import MethodType
from typing import Any, Generic, TypeVar, cast, overload

from agentlightning.errors import InvalidAgent
from agentlightning.litagent.calling import is_async_callable, resolve_proxies
from agentlightning.litagent.inject import describe, fill, is_unbound_method, wanted_parameters
from agentlightning.litagent.litagent import LitAgent
from agentlightning.types import AttemptedRollout, NamedResources, Rollout, RolloutMode, RolloutRawResult

T = TypeVar("T")


class FunctionalLitAgent(LitAgent[T], Generic[T]):
    """An agent made of one function, which gets the resources it names; see `inject` for the rules.

    Calling the agent calls the function as it is. A method is decorated in its class, and `instance.method` is then the
    agent. Functions of importable modules are pickled by name, others by what cloudpickle makes of them.

    Args:
        rollout_func: The function; sync functions run in a thread, coroutine functions on the event loop.
        strip_proxy: Whether a `ProxyLLM` becomes a plain `LLM` whose endpoint names the attempt.

    Raises:
        InvalidAgent: The function's parameters cannot be filled.
    """

    def __init__(self, rollout_func: Callable[..., Any], *, strip_proxy: bool = True) -> None:
        super().__init__()
        function = _checked(rollout_func)
        self._function = function
        self._is_unbound = is_unbound_method(function)
        self._is_async = is_async_callable(function)
        self._wanted = wanted_parameters(function, strip_proxy)
        self._bound_from: tuple[FunctionalLitAgent[T], Any] | None = None
        self.strip_proxy = strip_proxy
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, with nothing filled in."""
        return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> FunctionalLitAgent[T]:
        """Bind a method to its instance, as a class does with its functions."""
        return self._bind(instance) if self._is_unbound and instance is not None else self

    def __reduce__(self) -> Any:
        """Pickle by name where the name leads back here, otherwise by the function."""
        if self._bound_from is not None:
            return FunctionalLitAgent[Any]._bind, self._bound_from
        module, name = getattr(self, "__module__", None), getattr(self, "__qualname__", "")
        if module != "__main__" and _found(sys.modules.get(module or ""), name) is self:
            return name
        return _rebuild, (self._function, self.strip_proxy)

    def _bind(self, instance: Any) -> FunctionalLitAgent[T]:
        bound = FunctionalLitAgent[T](MethodType(self._function, instance), strip_proxy=self.strip_proxy)
        bound._bound_from = self, instance
        return bound

    @property
    def signature(self) -> str:
        """The function's name and parameters."""
        return describe(self._function)

    def asks_for(self, name: str) -> bool:
        """Whether the function has a parameter of this name that is filled for it."""
        return name in (wanted.name for wanted in self._wanted)

    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return self._is_async

    def method_for(self, mode: RolloutMode | None) -> Callable[..., Any]:
        """Return the method that calls the function, whatever the mode.

        Raises:
            InvalidAgent: The function is a method and nobody said of which instance.
        """
        if self._is_unbound:
            raise InvalidAgent(f"{self.signature} is a method: give the runner the one of an instance")
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


def _found(module: Any, qualified_name: str) -> Any:
    return functools.reduce(lambda holder, name: getattr(holder, name, None), qualified_name.split("."), module)


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
    return _asking_for("llm", FunctionalLitAgent(func, strip_proxy=strip_proxy))


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
    return _asking_for("prompt_template", FunctionalLitAgent(func))


def _asking_for(name: str, agent: FunctionalLitAgent[Any]) -> FunctionalLitAgent[Any]:
    if not agent.asks_for(name):
        raise InvalidAgent(f"the agent needs a parameter `{name}`: {agent.signature}")
    return agent


def _checked(function: Any) -> Callable[..., Any]:
    """Return the function that a decorator was given, out of its `staticmethod` if it is in one.

    Raises:
        InvalidAgent: It is none, or it yields.
    """
    if isinstance(function, staticmethod):
        function = cast("staticmethod[..., Any]", function).__func__
    if isinstance(function, LitAgent):
        raise InvalidAgent(f"{function!r} is an agent already: give it to a runner or trainer as it is")
    if isinstance(function, type):
        raise InvalidAgent(f"{function.__qualname__} is a class: derive it from LitAgent, or decorate a method of it")
    if not callable(function):
        raise InvalidAgent(f"an agent is a function, not a {type(function).__name__}: {function!r:.100}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidAgent(f"{describe(function)} yields: an agent returns its reward, or emits its rewards")
    return function
