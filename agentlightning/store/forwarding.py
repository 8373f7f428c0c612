"""A store that hands every operation on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import Parameter
from typing import Any, Final

from agentlightning.store.base import LightningStore
from agentlightning.store.operations import Operation, operations_of

_KEYWORD_ONLY: Final = Parameter.KEYWORD_ONLY


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
    signature = operation.signature
    positional = [name for name, parameter in signature.parameters.items() if parameter.kind is not _KEYWORD_ONLY]
    required = {name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty}
    keywords = signature.parameters.keys()

    async def forward(self: ForwardingStore, *args: Any, **kwargs: Any) -> Any:
        arguments = {**dict(zip(positional, args, strict=False)), **kwargs}
        unambiguous = len(arguments) == len(args) + len(kwargs)
        if not (unambiguous and required <= arguments.keys() <= keywords):
            signature.bind(*args, **kwargs)  # raises what a call with these arguments does
        return await self.call(operation, arguments)

    forward.__name__ = operation.name
    forward.__doc__ = operation.method.__doc__
    return forward


_install(ForwardingStore)
