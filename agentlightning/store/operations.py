"""The mark on an operation of the store, and the table read from the marks.

The table is the store's interface: whatever forwards, serves or documents the store reads it, so that a new
operation costs its signature and its SQL, nothing else.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_type_hints

F = TypeVar("F", bound=Callable[..., Any])

LONGEST_KEY: Final = 200
"""Characters of an idempotency key."""

_MARK: Final = "__agl_operation__"
_ALIASES: Final = "__agl_aliases__"

Role: TypeAlias = Literal["agent", "runner", "admin"]
"""Who calls over HTTP; each may do what those before it may. An agent acts for its own attempt alone."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the store, or another route to one.

    Attributes:
        name: The method's name.
        verb: HTTP verb.
        path: HTTP path below `/v1/agl`, with path parameters in braces.
        mutates: Whether it changes the store.
        repeatable: Whether doing it twice is the same as once, so that its key need not be remembered.
        status: HTTP status of success.
        body: The parameter that is the whole body; None when the body is an object of parameters.
        answer: The key under which the answer stands in an object; None when the answer stands alone.
        none_status: HTTP status of the answer None.
        echoes: The parameter that holds what the answer repeats; None if it repeats nothing. See `store/brief.py`.
        role: The least that a caller must be.
        method: The function on the interface.
    """

    name: str
    verb: Literal["GET", "POST"]
    path: str
    mutates: bool
    repeatable: bool
    status: int
    body: str | None
    answer: str | None
    none_status: int
    echoes: str | None
    role: Role
    method: Callable[..., Any]

    @property
    def keyed(self) -> bool:
        """Whether a repeated request must be told from a new one, by its idempotency key."""
        return self.mutates and not self.repeatable

    @property
    def signature(self) -> inspect.Signature:
        """The method's signature, without `self`, annotations resolved."""
        return _signature_of(self.method)

    @property
    def path_parameters(self) -> tuple[str, ...]:
        """The parameters that stand in the path."""
        return _parameters_of(self.path)


@functools.cache
def _parameters_of(path: str) -> tuple[str, ...]:
    return tuple(re.findall(r"{(\w+)}", path))


@functools.cache
def _signature_of(method: Callable[..., Any]) -> inspect.Signature:
    hints = get_type_hints(method, include_extras=True)
    signature = inspect.signature(method)
    parameters = [
        parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return signature.replace(parameters=parameters, return_annotation=hints["return"])


def operation(
    verb: Literal["GET", "POST"],
    path: str,
    *,
    mutates: bool = True,
    repeatable: bool = False,
    status: int = 200,
    body: str | None = None,
    echoes: str | None = None,
    role: Role = "runner",
) -> Callable[[F], F]:
    """Mark a method of the store's interface as an operation. GET has path parameters only."""

    def mark(method: F) -> F:
        repeat = repeatable or not mutates
        made = Operation(method.__name__, verb, path, mutates, repeat, status, body, None, 200, echoes, role, method)
        setattr(method, _MARK, made)
        return method

    return mark


def alias(
    verb: Literal["GET", "POST"],
    path: str,
    *,
    mutates: bool = False,
    repeatable: bool = False,
    status: int = 200,
    body: str | None = None,
    answer: str | None = None,
    none_status: int = 200,
    role: Role = "runner",
) -> Callable[[F], F]:
    """Give a method of the interface another route, one of v0.3's; a GET takes its parameters from the query."""

    def mark(method: F) -> F:
        repeat = repeatable or not mutates
        made = Operation(
            method.__name__, verb, path, mutates, repeat, status, body, answer, none_status, None, role, method
        )
        setattr(method, _ALIASES, (made, *getattr(method, _ALIASES, ())))
        return method

    return mark


def operations_of(interface: type) -> dict[str, Operation]:
    """Return the operations that a class and its bases mark, by name, in order of definition."""
    marks = (getattr(member, _MARK, None) for member in _members(interface))
    return {mark.name: mark for mark in marks if isinstance(mark, Operation)}


def routes_of(interface: type) -> list[Operation]:
    """Return every route to a class: its operations, and the aliases of its methods."""
    aliases = [made for member in _members(interface) for made in getattr(member, _ALIASES, ())]
    return [*operations_of(interface).values(), *aliases]


def _members(interface: type) -> list[Any]:
    return [member for base in reversed(interface.__mro__) for member in vars(base).values()]
