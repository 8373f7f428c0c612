"""The smallest value that a JSON schema allows, for the arguments of tools."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote

from agentlightning.errors import InvalidRequest

_EXAMPLES: Final[dict[str, Any]] = {"string": "text", "integer": 1, "number": 1.0, "boolean": True, "null": None}

Schema = Mapping[str, Any]


class _Endless(InvalidRequest):
    """A value of the schema holds another one of the same schema, and so on."""


def example_of(schema: Schema) -> Any:
    """Return the smallest value that a schema allows, as far as its types, enums, defaults and references say.

    Args:
        schema: The schema, with all that it refers to.

    Raises:
        InvalidRequest: It is no schema: something in it has another form, is not there, or has no end.
    """
    try:
        return _Example(schema).of(schema, ())
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidRequest(f"this is no JSON schema, {type(error).__name__}: {error}") from error


class _Example:
    """Makes the example of a schema.

    Args:
        root: The whole schema, in which references are looked up.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root

    def of(self, schema: Schema | bool, within: tuple[str, ...]) -> Any:
        """Return the example of a part, which stands within what these references lead to."""
        if isinstance(schema, bool):
            return None
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        if schema.get("enum"):
            return schema["enum"][0]
        if "$ref" in schema:
            return self._referred(schema["$ref"], within)
        for key in ("anyOf", "oneOf", "allOf"):
            if schema.get(key):
                return self._first(schema[key], within)
        return self._of_type(schema, within)

    def _referred(self, reference: str, within: tuple[str, ...]) -> Any:
        if reference in within:
            raise _Endless(f"a value of the schema {reference!r} has no end")
        found: Any = self._root
        for name in reference.removeprefix("#").split("/")[1:]:
            if _name_of(name) not in found:
                raise InvalidRequest(f"the schema refers to {reference!r}, which is not in it")
            found = found[_name_of(name)]
        return self.of(found, (*within, reference))

    def _first(self, options: list[Schema], within: tuple[str, ...]) -> Any:
        """Return the example of the first option whose values have an end."""
        for option in options[:-1]:
            with suppress(_Endless):
                return self.of(option, within)
        return self.of(options[-1], within)

    def _of_type(self, schema: Schema, within: tuple[str, ...]) -> Any:
        properties: Mapping[str, Schema] = schema.get("properties") or {}
        given: str | list[str] = schema.get("type") or ("object" if properties else "string")
        kind = given if isinstance(given, str) else given[0]
        if kind == "object":
            return self._object(properties, schema.get("required"), within)
        if kind == "array":
            length = int(schema.get("minItems") or 0)
            return [self.of(schema.get("items") or {}, within)] * length if length else []
        return _EXAMPLES.get(kind)

    def _object(
        self, properties: Mapping[str, Schema], required: list[str] | None, within: tuple[str, ...]
    ) -> dict[str, Any]:
        if required:
            return {name: self.of(properties.get(name) or {}, within) for name in required}
        example: dict[str, Any] = {}
        for name, schema in properties.items():
            with suppress(_Endless):
                example[name] = self.of(schema, within)
        return example


def _name_of(part: str) -> str:
    return unquote(part).replace("~1", "/").replace("~0", "~")
