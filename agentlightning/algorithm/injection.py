"""Decorators that hand an algorithm's methods what the algorithm has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from agentlightning.algorithm.base import Algorithm
from agentlightning.errors import ConfigurationError
from agentlightning.store import LightningStore

if TYPE_CHECKING:
    from agentlightning.llm_proxy import LLMProxy

A = TypeVar("A", bound=Algorithm)
P = ParamSpec("P")
R = TypeVar("R")


def with_store(
    method: Callable[Concatenate[A, LightningStore, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[A, P], Coroutine[Any, Any, R]]:
    """Pass the algorithm's store to an async method, before its other arguments."""

    @functools.wraps(method)
    async def with_it(self: A, *args: P.args, **kwargs: P.kwargs) -> R:
        return await method(self, self.get_store(), *args, **kwargs)

    return with_it


def with_llm_proxy(
    required: bool = False, auto_start: bool = True
) -> Callable[
    [Callable[Concatenate[A, LLMProxy | None, P], Coroutine[Any, Any, R]]],
    Callable[Concatenate[A, P], Coroutine[Any, Any, R]],
]:
    """Pass the algorithm's gateway to an async method, before its other arguments; None where there is none.

    Args:
        required: Whether it is an error that there is none.
        auto_start: Whether a gateway that does not run is started for the time of the call. A trainer's runs already.

    Raises:
        ConfigurationError: There is none, and it is required.
    """

    def decorate(
        method: Callable[Concatenate[A, LLMProxy | None, P], Coroutine[Any, Any, R]],
    ) -> Callable[Concatenate[A, P], Coroutine[Any, Any, R]]:
        @functools.wraps(method)
        async def with_it(self: A, *args: P.args, **kwargs: P.kwargs) -> R:
            proxy = self.get_llm_proxy()
            if proxy is None and required:
                raise ConfigurationError(
                    f"{type(self).__name__} needs a gateway: pass Trainer(llm_proxy=…), or call set_llm_proxy() first"
                )
            if proxy is None or not auto_start or proxy.is_running():
                return await method(self, proxy, *args, **kwargs)
            await proxy.start()
            try:
                return await method(self, proxy, *args, **kwargs)
            finally:
                await proxy.stop()

        return with_it

    return decorate
