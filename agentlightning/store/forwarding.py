"""A store that hands every operation on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Set
from typing import Any, NamedTuple

from agentlightning.store.base import LightningStore
from agentlightning.store.operations import Operation, operations_of


class ForwardingStore(LightningStore):
    """Forwards every operation of its interface through one method, `call`.

    A subclass that inherits a larger interface forwards that one's operations too. It remembers no keys: what wraps a
    store of this process, to be served, derives from `LightningStoreThreaded` instead, which leaves them to that store.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _install(cls)

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Carry out an operation with the arguments that its caller passed, by name."""
        raise NotImplementedError


def _install(forwarding: type[ForwardingStore]) -> None:
    """Replace what the interface only declares."""
    for operation in operations_of(forwarding).values():
        if getattr(forwarding, operation.name) is operation.method:
            setattr(forwarding, operation.name, _forwarded(operation))


def _forwarded(operation: Operation) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def forward(self: ForwardingStore, *args: Any, **kwargs: Any) -> Any:
        shape = _shape_of(operation.method)
        arguments = {**dict(zip(shape.positional, args, strict=False)), **kwargs}
        unambiguous = len(arguments) == len(args) + len(kwargs)
        if not (unambiguous and shape.required <= arguments.keys() <= shape.keywords):
            operation.signature.bind(*args, **kwargs)  # raises what a call with these arguments does
        return await self.call(operation, arguments)

    forward.__name__ = operation.name
    forward.__doc__ = operation.method.__doc__
    return forward


class _Shape(NamedTuple):
    """The names of a method's parameters."""

    positional: list[str]
    required: set[str]
    keywords: Set[str]


@functools.cache
def _shape_of(method: Callable[..., Any]) -> _Shape:
    """Return the shape of a marked method; when it is first called, as resolving all annotations takes its time."""
    parameters = inspect.signature(method).parameters.values()
    names = [parameter for parameter in parameters if parameter.name != "self"]
    return _Shape(
        [parameter.name for parameter in names if parameter.kind is not parameter.KEYWORD_ONLY],
        {parameter.name for parameter in names if parameter.default is parameter.empty},
        {parameter.name for parameter in names},
    )


_install(ForwardingStore)
