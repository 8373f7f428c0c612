"""One call to several stores, whose answers must be the same but for the ids and times that each makes itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

from pydantic import BaseModel

from agentlightning.store.base import LightningStore

_MADE_ID: Final = re.compile(r"(ro|at|rs)-[0-9a-f]{8,12}")
_CLOCK: Final = 1e9
"""Seconds; a later time was read from a clock, an earlier one given by the test."""
_UNLIKE: Final = frozenset({"name", "uptime"})
"""Statistics in which stores differ."""

_OWN: Final = frozenset({"cursor", "time"})
"""Fields whose values mean something to their store alone."""


@dataclass(frozen=True, slots=True)
class Id:
    """An id that a store made, by the order in which it was first seen; `tail` stands for its end alone."""

    kind: str
    number: int
    tail: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """A value that a store told, of which only that store knows the meaning, such as a cursor."""

    name: str
    default: Any


@dataclass(frozen=True, slots=True)
class Built:
    """An argument that is built anew for each store, from values that may hold ids."""

    make: Callable[..., Any]
    values: dict[str, Any]


Plain: TypeAlias = Any
"""An answer as dicts, lists and values, ids as `Id`, times as "now"."""


@dataclass(slots=True)
class Names:
    """What one store's own ids and values are called in all of them."""

    ids: dict[str, Id] = field(default_factory=dict[str, Id])
    texts: dict[Id, str] = field(default_factory=dict[Id, str])
    counts: Counter[str] = field(default_factory=Counter[str])
    told: dict[str, Any] = field(default_factory=dict[str, Any])

    def resolve(self, value: Any) -> Any:
        """Return an argument as this store's own."""
        if isinstance(value, Id):
            text = self.texts[Id(value.kind, value.number)]
            return text[5:] if value.tail else text
        if isinstance(value, Told):
            return self.told.get(value.name, value.default)
        if isinstance(value, Built):
            return value.make(**self.resolve(value.values))
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in cast("dict[str, Any]", value).items()}
        if isinstance(value, (list, tuple)):
            values = cast("list[Any] | tuple[Any, ...]", value)
            return type(values)(self.resolve(item) for item in values)
        return value

    def plain(self, value: Any, name: str = "") -> Plain:
        """Return an answer in the words that all stores share, with the types of its parts."""
        if isinstance(value, BaseModel):
            fields = {**value.__dict__, **(value.model_extra or {})}
            items = {key: self.plain(item, key) for key, item in fields.items()}
            return {"type": type(value).__name__.partition("[")[0], **items}
        if isinstance(value, dict):
            mapping = cast("dict[str, Any]", value)
            return {key: self.plain(item, key) for key, item in mapping.items() if key not in _UNLIKE}
        if isinstance(value, (list, tuple)):
            values = cast("list[Any] | tuple[Any, ...]", value)
            return [type(values).__name__, *(self.plain(item) for item in values)]
        if isinstance(value, str) and _MADE_ID.fullmatch(value):
            return self._id_of(value)
        if name in _OWN:
            return name
        if isinstance(value, float) and value > _CLOCK and name.endswith("time"):
            return "now"
        return value if isinstance(value, str) or value is None else (type(value).__name__, value)

    def _id_of(self, text: str) -> Id:
        if text not in self.ids:
            kind = text[:2]
            made = Id(kind, self.counts[kind])
            self.counts[kind] += 1
            self.ids[text], self.texts[made] = made, text
        return self.ids[text]


class Comparison:
    """Calls several stores as if they were one.

    Args:
        stores: The stores by what to call them; empty, or with equal contents that no call will meet.
    """

    def __init__(self, stores: Mapping[str, LightningStore]) -> None:
        self._stores = [(name, store, Names()) for name, store in stores.items()]

    async def call(
        self,
        method: str,
        *arguments: Any,
        tells: Mapping[str, str] | None = None,
        **named: Any,
    ) -> Plain:
        """Call a method of every store and return the answer, or the name of the error's class.

        Args:
            method: The method.
            arguments: May hold `Id`, `Told` and `Built`.
            tells: Attributes of the answer to keep, by the name that `Told` gives each.
            named: As `arguments`.

        Raises:
            AssertionError: The answers differ.
        """
        answers: dict[str, Plain] = {}
        for name, store, names in self._stores:
            resolved, resolved_named = names.resolve(arguments), names.resolve(named)
            answers[name] = await _outcome(names, getattr(store, method)(*resolved, **resolved_named), tells or {})
        (first, expected), *others = answers.items()
        for other, answer in others:
            if answer != expected:
                shown = "\n".join(_differences(expected, answer))
                raise AssertionError(f"{method}: {other} answers otherwise than {first}:\n{shown}")
        return expected


async def _outcome(names: Names, call: Awaitable[Any], tells: Mapping[str, str]) -> Plain:
    try:
        answer = await call
    except Exception as error:  # noqa: BLE001  # compared with what the other stores raise
        return {"error": type(error).__name__}
    names.told.update({name: getattr(answer, attribute) for name, attribute in tells.items()})
    return names.plain(answer)


def _differences(expected: Plain, found: Plain, path: str = "answer") -> list[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        one, two = cast("dict[str, Any]", expected), cast("dict[str, Any]", found)
        keys = one.keys() | two.keys()
        return [line for key in sorted(keys) for line in _differences(one.get(key), two.get(key), f"{path}.{key}")]
    if isinstance(expected, list) and isinstance(found, list):
        these, those = cast("list[Any]", expected), cast("list[Any]", found)
        if len(these) == len(those):
            return [
                line
                for i, (one, two) in enumerate(zip(these, those, strict=True))
                for line in _differences(one, two, f"{path}[{i}]")
            ]
    return [] if expected == found else [f"  {path}: {found!r} instead of {expected!r}"]
