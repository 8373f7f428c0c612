"""The mark on an operation of the store, and the table read from the marks.

The table is the store's interface: whatever forwards, serves or documents the store reads it, so that a new
operation costs its signature and its SQL, nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_type_hints

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__agl_operation__"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the store.

    Attributes:
        name: The method's name.
        verb: HTTP verb; GET only when every parameter is in the path.
        path: HTTP path below `/v1/agl`, with path parameters in braces.
        mutates: Whether it changes the store; such requests carry an idempotency key.
        method: The function on the interface.
    """

    name: str
    verb: Literal["GET", "POST"]
    path: str
    mutates: bool
    method: Callable[..., Any]

    @property
    def signature(self) -> inspect.Signature:
        """The method's signature, without `self`, annotations resolved."""
        hints = get_type_hints(self.method, include_extras=True)
        signature = inspect.signature(self.method)
        parameters = [
            parameter.replace(annotation=hints.get(name, parameter.annotation))
            for name, parameter in signature.parameters.items()
            if name != "self"
        ]
        return signature.replace(parameters=parameters, return_annotation=hints["return"])


def operation(verb: Literal["GET", "POST"], path: str, *, mutates: bool = True) -> Callable[[F], F]:
    """Mark a method of the store's interface as an operation."""

    def mark(method: F) -> F:
        setattr(method, _MARK, Operation(method.__name__, verb, path, mutates, method))
        return method

    return mark


def operations_of(interface: type) -> dict[str, Operation]:
    """Return the operations that a class marks, by name, in order of definition."""
    marks = (getattr(member, _MARK, None) for member in vars(interface).values())
    return {mark.name: mark for mark in marks if isinstance(mark, Operation)}
