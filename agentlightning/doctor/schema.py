"""The smallest value that a JSON schema allows, for the arguments of tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_EXAMPLES: Final[dict[str, Any]] = {"string": "text", "integer": 1, "number": 1.0, "boolean": True, "null": None}

Schema = Mapping[str, Any]


def example_of(schema: Schema) -> Any:
    """Return the smallest value that a schema allows, as far as its types, enums, defaults and references say.

    Args:
        schema: The schema, with its `$defs`.
    """
    return _example(schema, schema.get("$defs") or {})


def _example(schema: Schema, definitions: Mapping[str, Schema]) -> Any:
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return _example(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _example(schema[key][0], definitions)
    return _example_of_type(schema, definitions)


def _example_of_type(schema: Schema, definitions: Mapping[str, Schema]) -> Any:
    properties: Mapping[str, Schema] = schema.get("properties") or {}
    kind: str | list[str] = schema.get("type") or ("object" if properties else "string")
    kind = kind if isinstance(kind, str) else kind[0]
    if kind == "object":
        names: list[str] = schema.get("required") or list(properties)
        return {name: _example(properties.get(name) or {}, definitions) for name in names}
    if kind == "array":
        return [_example(schema.get("items") or {}, definitions)] * int(schema.get("minItems") or 0)
    return _EXAMPLES.get(kind)
